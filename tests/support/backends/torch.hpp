// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/adapt/torch.hpp>
#include <type_traits>

namespace test {

/// libtorch's tensors for tests that are typed over backends: to and from Eigen, bit for bit.
template <class S>
struct torch_backend {
  using scalar = S;
  static constexpr bool same_bits = false;  // libtorch adds in its own order
  using compute = catmerge::compute_t<S>;
  static constexpr catmerge::scalar_type type = catmerge::scalar_type_v<S>;
  static constexpr const char* name = type == catmerge::scalar_type::f64   ? "torch float64"
                                      : type == catmerge::scalar_type::f32 ? "torch float32"
                                      : type == catmerge::scalar_type::f16 ? "torch float16"
                                                                           : "torch bfloat16";

  /// A contiguous tensor of rank 2.
  static at::Tensor matrix(const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic>& m) {
    return over(m).clone(at::MemoryFormat::Contiguous);
  }

  /// A tensor of rank 1.
  static at::Tensor vector(const Eigen::Matrix<S, Eigen::Dynamic, 1>& v) {
    return over(v).reshape(-1).clone();
  }

  /// The elements of a tensor of rank 1 or 2, of any type and device; rank 1 becomes one column.
  static Eigen::Matrix<compute, Eigen::Dynamic, Eigen::Dynamic> to_eigen(const at::Tensor& t) {
    const at::Tensor plain = t.detach().dim() == 1 ? t.detach().unsqueeze(1) : t.detach();
    Eigen::Matrix<compute, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor> m(plain.size(0),
                                                                              plain.size(1));
    if (m.size() > 0)
      at::from_blob(m.data(), {m.cols(), m.rows()},
                    catmerge::detail::torch_type(catmerge::scalar_type_v<compute>))
          .t()
          .copy_(plain);
    return m;
  }

 private:
  /// Eigen's memory; from_blob wants it non-null and not const, and it is only read.
  template <class M>
  static at::Tensor over(const M& m) {
    static S none{};
    auto* memory = m.size() > 0 ? const_cast<S*>(m.data()) : &none;
    const at::Tensor lines =
        at::from_blob(memory, {m.outerSize(), m.innerSize()}, catmerge::detail::torch_type(type));
    return M::IsRowMajor ? lines : lines.t();
  }
};

}  // namespace test

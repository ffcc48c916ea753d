// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include "support/backends/archetypes.hpp"
#include "support/fake_device.hpp"
#include "support/suite/algorithms.hpp"

using namespace test;
using catmerge::bfloat16;
using catmerge::half;

namespace {

/// The fake device (no pointer to its memory is ever readable) for the suite.
template <class S>
struct fake_backend {
  using scalar = S;
  static constexpr bool same_bits = true;
  fake_tensor<2> matrix(const matrix_of<S>& m) { return fake_tensor<2>::upload(m); }
  fake_tensor<1> vector(const vector_of<S>& v) { return fake_tensor<1>::upload(v); }
  template <class T>
  static auto to_eigen(const T& t) {
    return t.template download<catmerge::compute_t<S>>();
  }
};

}  // namespace

TEST_CASE_TEMPLATE("a type that offers nothing but what the concepts ask for", B,
                   archetype_backend<float, bare_tensor>) {
  static_assert(!std::copyable<suite::matrix_type<B>>);
  static_assert(!std::default_initializable<suite::matrix_type<B>>);
  suite::everything<B>();
}

TEST_CASE_TEMPLATE("no tensor is copied on the host", B,
                   archetype_backend<double, counting_tensor>) {
  const index_t before = copies_counted();
  suite::everything<B>();
  CHECK(copies_counted() == before);
}

TEST_CASE_TEMPLATE("a device whose memory cannot be read", B, fake_backend<double>,
                   fake_backend<float>, fake_backend<half>, fake_backend<bfloat16>) {
  suite::everything<B>();
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/factors/factored_vector.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <cmath>
#include <harness/adapters/adapter_set.hpp>
#include <harness/checkpoints/task_heads_output.hpp>
#include <span>
#include <string>
#include <vector>

namespace catmerge::harness {

/// The factors of a merged weight, scale 1, in double.
struct plain_factors {
  Eigen::MatrixXd b;  ///< d_out x r
  Eigen::MatrixXd a;  ///< r x d_in
};

/// A window on an Eigen matrix.
/// The factors with the scale in B, without directions in which one factor is zero.
inline plain_factors without_scale(const factored_view<context<host>>& v, context<host>& c) {
  plain_factors all{Eigen::MatrixXd(v.b.rows, v.b.columns), Eigen::MatrixXd(v.a.rows, v.a.columns)};
  c.assign(v.b, view_of(all.b));
  c.assign(v.a, view_of(all.a));
  all.b *= v.scale;
  Eigen::Index kept = 0;
  for (Eigen::Index j = 0; j < all.b.cols(); ++j) {
    if (all.b.col(j).isZero(0) || all.a.row(j).isZero(0)) continue;
    all.b.col(kept) = all.b.col(j).eval();
    all.a.row(kept) = all.a.row(j).eval();
    ++kept;
  }
  return {all.b.leftCols(kept), all.a.topRows(kept)};
}

/// Makes each column of B and its row of A equally long, up to a factor of sqrt(2), by powers of
/// two: B A stays the same to the last bit, and neither factor leaves the range of a narrow type
/// before the other does.
inline void balance(plain_factors& f) {
  for (Eigen::Index j = 0; j < f.b.cols(); ++j) {
    const double b = f.b.col(j).norm(), a = f.a.row(j).norm();
    const int half = static_cast<int>(std::lround((std::log2(b) - std::log2(a)) / 2));
    f.b.col(j) *= std::ldexp(1.0, -half);
    f.a.row(j) *= std::ldexp(1.0, half);
  }
}

/// Writes the merged adapter.
class adapter_output {
 public:
  /// plans: of the merged weights. Writes what all adapters hold whole. Throws as
  /// io::adapter_writer does.
  adapter_output(const std::string& path, const adapter_set& set,
                 const std::vector<io::planned_target>& plans)
      : path_(path), writer_(path, plans, replaced(set), set.options()) {
    for (const auto& tensor : set.kept())
      writer_.write(writer_.name_of(tensor.name), tensor.entry->bytes);
  }

  /// factors: of rank plan.rank or less; zeros fill up the rest. bias: B's, if the plan has one.
  void put(const io::planned_target& plan, plain_factors factors, const Eigen::VectorXd& bias) {
    balance(factors);
    const Eigen::Index found = factors.b.cols();
    factors.b.conservativeResize(Eigen::NoChange, plan.rank);
    factors.a.conservativeResize(plan.rank, Eigen::NoChange);
    factors.b.rightCols(plan.rank - found).setZero();
    factors.a.bottomRows(plan.rank - found).setZero();
    write(plan.a(), factors.a);
    write(plan.b(), factors.b);
    if (plan.has_bias) write(plan.bias(), bias);
  }

  /// Makes the output appear under its name.
  void commit() { writer_.commit(); }

 private:
  static std::vector<io::tensor_info> replaced(const adapter_set& set) {
    std::vector<io::tensor_info> infos;
    for (const auto& tensor : set.kept())
      infos.push_back({tensor.name, tensor.entry->type, tensor.entry->shape});
    return infos;
  }

  void write(const io::tensor_info& info, const Eigen::MatrixXd& values) {
    host_matrix stored(*io::scalar_of(info.type), values.rows(), values.cols());
    context<host> c;
    c.assign(const_view_of(values), stored);
    if (!c.all_finite(stored))
      throw error(path_ + ": tensor '" + info.name + "': a merged value does not fit " +
                  std::string(name_of(info.type)) + "; choose a wider --out-dtype");
    const host_const_view all = stored;
    writer_.write(info.name, {static_cast<const std::byte*>(all.data), *io::byte_count(info)});
  }

  std::string path_;
  io::adapter_writer writer_;
};

/// The tensors that each adapter holds whole and that --task-heads calls its own, by the names of
/// the base's parameters.
inline std::vector<task_heads> heads_of_adapters(const adapter_set& set,
                                                 const name_patterns& patterns) {
  std::vector<task_heads> all;
  for (index_t k = 0; k < std::ssize(set.tasks()); ++k) {
    const auto& adapter = set.adapter(k);
    task_heads own{set.tasks()[static_cast<std::size_t>(k)], adapter.path()};
    for (const auto& tensor : adapter.replaced())
      if (patterns.match(tensor.name)) own.tensors.emplace_back(tensor.name, tensor.entry);
    all.push_back(std::move(own));
  }
  return all;
}

}  // namespace catmerge::harness

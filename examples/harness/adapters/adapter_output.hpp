// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <catmerge/factors/factored_vector.hpp>
#include <catmerge/io/adapter_writer.hpp>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <cmath>
#include <harness/adapters/adapter_set.hpp>
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
inline host_view window_on(Eigen::MatrixXd& m) {
  return {m.data(), scalar_type::f64, m.rows(), m.cols(), 1, m.rows()};
}
inline host_const_view window_on(const Eigen::MatrixXd& m) {
  return {m.data(), scalar_type::f64, m.rows(), m.cols(), 1, m.rows()};
}

/// The factors with the scale in B, without directions in which one factor is zero.
inline plain_factors without_scale(const factored_view<context<host>>& v, context<host>& c) {
  plain_factors all{Eigen::MatrixXd(v.b.rows, v.b.columns), Eigen::MatrixXd(v.a.rows, v.a.columns)};
  c.assign(v.b, window_on(all.b));
  c.assign(v.a, window_on(all.a));
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
    c.assign(window_on(values), stored);
    if (!c.all_finite(stored))
      throw error(path_ + ": tensor '" + info.name + "': a merged value does not fit " +
                  std::string(name_of(info.type)) + "; choose a wider --out-dtype");
    const host_const_view all = stored;
    writer_.write(info.name, {static_cast<const std::byte*>(all.data), *io::byte_count(info)});
  }

  std::string path_;
  io::adapter_writer writer_;
};

/// What each adapter holds whole for its task (--task-heads), bit for bit, by the names of the
/// base's parameters: TASK.safetensors in a folder.
class adapter_heads_output {
 public:
  /// Writes the tensors beside the target. Throws if an adapter has no such tensor, or if a task's
  /// name is no file name.
  adapter_heads_output(const std::string& path, const adapter_set& set,
                       const name_patterns& patterns, io::existing target)
      : folder_(path, target, [](const auto& name) { return name.extension() == ".safetensors"; }) {
    folder_.check_replaceable();
    for (index_t k = 0; k < std::ssize(set.tasks()); ++k) {
      const auto& task = set.tasks()[static_cast<std::size_t>(k)];
      if (task.front() == '.' || task.find('/') != std::string::npos)
        throw error(path + ": the task '" + task + "' cannot be the name of a file");
      std::vector<io::tensor_info> infos;
      for (const auto& tensor : set.adapter(k).replaced())
        if (patterns.match(tensor.name))
          infos.push_back({tensor.name, tensor.entry->type, tensor.entry->shape});
      if (infos.empty())
        throw error(set.adapter(k).path().string() + ": expert '" + task +
                    "' has no tensor that --task-heads matches");
      io::safetensors_writer writer(folder_.partial() / (task + ".safetensors"), infos);
      for (const auto& tensor : set.adapter(k).replaced())
        if (patterns.match(tensor.name)) writer.write(tensor.name, tensor.entry->bytes);
      writer.commit();
    }
  }

  void commit() { folder_.commit(); }

 private:
  io::atomic_folder folder_;
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/io/tensor_entry.hpp>
#include <harness/networks/activations.hpp>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

/// A parameter of a network: its name in the checkpoint, and its shape by the configuration.
struct parameter {
  std::string name;
  io::shape_t shape;
};

/// The values of one parameter in float32, row-major: borrowed from memory that must outlive this
/// object (a mapped file), or owned (converted, computed). Cheap to copy and to move.
class weight {
 public:
  weight() = default;
  /// Borrows `values`, as many floats as the shape says.
  weight(io::shape_t shape, const float* values) : shape_(std::move(shape)), values_(values) {}
  /// Owns the values.
  weight(io::shape_t shape, std::vector<float> values)
      : shape_(std::move(shape)),
        owner_(std::make_shared<const std::vector<float>>(std::move(values))),
        values_(owner_->data()) {}

  const io::shape_t& shape() const { return shape_; }
  const float* data() const { return values_; }
  index_t size() const {
    index_t count = 1;
    for (const index_t extent : shape_) count *= extent;
    return count;
  }

  /// Extents (first, all others): d_out x d_in, and d_out x (c, kh, kw) for a convolution.
  matrix_view rows() const {
    const index_t first = shape_.empty() ? 1 : shape_.front();
    return {values_, first, first == 0 ? 0 : size() / first};
  }
  vector_view vector() const { return {values_, size()}; }

  /// Part `index` of `parts` equal ones along the first extent, without a copy: the rows of q, k or
  /// v in a fused weight. Precondition: parts divides the first extent.
  weight part(index_t index, index_t parts) const {
    weight result = *this;
    result.shape_.front() /= parts;
    result.values_ += index * result.size();
    return result;
  }

  /// Rows first ... first + count - 1, without a copy: of a matrix, or entries of a vector.
  weight window(index_t first, index_t count) const {
    weight result = *this;
    const index_t row = size() / shape_.front();
    result.shape_.front() = count;
    result.values_ += first * row;
    return result;
  }

  /// A d_in x d_out matrix as d_out x d_in, copied. Precondition: it is a matrix.
  weight transposed() const {
    std::vector<float> values(static_cast<std::size_t>(size()));
    mutable_view(values.data(), shape_[1], shape_[0]) = rows().transpose();
    return {{shape_[1], shape_[0]}, std::move(values)};
  }

 private:
  io::shape_t shape_ = {0};
  std::shared_ptr<const std::vector<float>> owner_;
  const float* values_ = nullptr;
};

/// Some rows of a matrix, copied; the matrix itself if these are all of its rows, in order.
inline weight rows_of_whole(const weight& whole, const std::vector<index_t>& which) {
  const matrix_view from = whole.rows();
  bool all = std::ssize(which) == from.rows();
  for (std::size_t i = 0; all && i < which.size(); ++i) all = which[i] == static_cast<index_t>(i);
  if (all) return whole;
  std::vector<float> values(which.size() * static_cast<std::size_t>(from.cols()));
  mutable_view to(values.data(), std::ssize(which), from.cols());
  for (index_t i = 0; i < to.rows(); ++i) to.row(i) = from.row(which[static_cast<std::size_t>(i)]);
  return {{to.rows(), to.cols()}, std::move(values)};
}

/// The source of a network's parameters: a checkpoint (checkpoint_weights.hpp), two of them mixed
/// (mixed_weights), or computed values. Networks call it on the caller's thread only, once per
/// parameter and block.
class weight_source {
 public:
  weight_source() = default;
  weight_source(const weight_source&) = delete;
  weight_source& operator=(const weight_source&) = delete;
  virtual ~weight_source() = default;

  /// Throws catmerge::error, naming the file, the tensor, the expected and the found shape, unless
  /// the parameter exists in the shape wanted.
  virtual void check(const parameter& wanted) const = 0;

  /// The values, checked. Valid during the life of this source.
  virtual weight get(const parameter& wanted) const = 0;

  /// Some rows of a matrix, checked: which.size() x its columns. For large tables, of which few
  /// rows are needed at a time.
  virtual weight rows(const parameter& wanted, const std::vector<index_t>& which) const {
    return rows_of_whole(get(wanted), which);
  }

  /// Frees the memory that values in a mapped file take. They stay valid: the next use reads them
  /// again.
  virtual void release(const parameter& /*used*/) const {}
};

/// theta_0 + a (theta_k - theta_0), one parameter at a time, in float32: the network of task k's
/// features in the port's preset (a = alpha). Both sources must outlive this one.
class mixed_weights : public weight_source {
 public:
  mixed_weights(const weight_source& base, const weight_source& expert, double coefficient)
      : base_(base), expert_(expert), coefficient_(static_cast<float>(coefficient)) {}

  void check(const parameter& wanted) const override {
    base_.check(wanted);
    expert_.check(wanted);
  }

  weight get(const parameter& wanted) const override {
    return mixed(base_.get(wanted), expert_.get(wanted));
  }

  weight rows(const parameter& wanted, const std::vector<index_t>& which) const override {
    return mixed(base_.rows(wanted, which), expert_.rows(wanted, which));
  }

  void release(const parameter& used) const override {
    base_.release(used);
    expert_.release(used);
  }

 private:
  weight mixed(const weight& from, const weight& to) const {
    std::vector<float> values(static_cast<std::size_t>(from.size()));
    Eigen::Map<row_vector>(values.data(), from.size()) =
        from.vector() + coefficient_ * (to.vector() - from.vector());
    return {from.shape(), std::move(values)};
  }

  const weight_source& base_;
  const weight_source& expert_;
  float coefficient_;
};

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <catmerge/tensor/host/host.hpp>
#include <cstddef>
#include <deque>
#include <exception>
#include <memory>
#include <new>
#include <span>
#include <utility>
#include <vector>

/// A device that is none: memory that no pointer outside its context can read, since each buffer is
/// a mapping of its own without any access rights, which the context grants itself for one
/// operation at a time. What crosses to and from the host is counted. If an algorithm runs here, it
/// runs on handles alone.
namespace test {

struct fake_device {};

/// The traffic between the fake device and the host since the last reset.
struct traffic {
  /// Calls of to_host and from_host; count_keys reads too, because its counts are of a weight's
  /// size and a real device has to send them.
  std::size_t reads = 0, writes = 0;
  std::size_t bytes_read = 0, bytes_written = 0;  ///< by them
  std::size_t largest = 0;                        ///< bytes of the largest single transfer
  std::size_t operations = 0;                     ///< operations of the context, transfers included

  std::size_t bytes() const { return bytes_read + bytes_written; }
};

inline traffic& fake_traffic() {
  static traffic t;
  return t;
}

/// Memory of the fake device.
class fake_buffer {
 public:
  explicit fake_buffer(std::size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    base_ = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
  }
  fake_buffer(const fake_buffer&) = delete;
  fake_buffer& operator=(const fake_buffer&) = delete;
  ~fake_buffer() {
    if (bytes_ > 0) ::munmap(base_, bytes_);
  }

  /// The address, of no use to anybody who does not hold an `access`.
  void* address() const { return base_; }

  /// Access for as long as it lives; nests.
  class access {
   public:
    explicit access(fake_buffer* buffer) : buffer_(buffer) {
      if (buffer_ != nullptr && buffer_->open_++ == 0) buffer_->protect(PROT_READ | PROT_WRITE);
    }
    access(const access&) = delete;
    access& operator=(const access&) = delete;
    ~access() {
      if (buffer_ != nullptr && --buffer_->open_ == 0) buffer_->protect(PROT_NONE);
    }

   private:
    fake_buffer* buffer_;
  };

 private:
  void protect(int rights) const {
    if (bytes_ > 0 && ::mprotect(base_, bytes_, rights) != 0) std::terminate();
  }

  void* base_ = nullptr;
  std::size_t bytes_;
  int open_ = 0;
};

/// A handle of a window on device memory: nothing in it can be dereferenced by mistake.
struct fake_const_view {
  fake_buffer* buffer = nullptr;
  catmerge::scalar_type type = catmerge::scalar_type::f32;
  catmerge::index_t offset = 0;  ///< of element (0, 0), in elements
  catmerge::index_t rows = 0, columns = 0, row_stride = 0, column_stride = 1;

  fake_const_view window(catmerge::index_t row, catmerge::index_t row_count,
                         catmerge::index_t column, catmerge::index_t column_count) const {
    fake_const_view w = *this;
    w.offset += row * row_stride + column * column_stride;
    w.rows = row_count;
    w.columns = column_count;
    return w;
  }
};

/// The same, writable.
struct fake_view {
  fake_const_view handle;
  operator fake_const_view() const { return handle; }
};

/// Owns device memory, row-major.
class fake_matrix {
 public:
  fake_matrix() = default;
  fake_matrix(catmerge::scalar_type type, catmerge::index_t rows, catmerge::index_t columns) {
    if (rows < 0 || columns < 0) throw catmerge::error("a matrix cannot have a negative extent");
    memory_ = std::make_unique<fake_buffer>(static_cast<std::size_t>(rows * columns) *
                                            catmerge::size_of(type));
    view_.buffer = memory_.get();
    view_.type = type;
    view_.rows = rows;
    view_.columns = columns;
    view_.row_stride = columns;
  }
  operator fake_view() { return {view_}; }
  operator fake_const_view() const { return view_; }

 private:
  std::unique_ptr<fake_buffer> memory_;
  fake_const_view view_;
};

/// Access to a window's memory, as the inner host context takes it.
template <class HostView>
class opened {
 public:
  explicit opened(const fake_const_view& v)
      : access_(v.buffer),
        host_(v.buffer == nullptr || v.buffer->address() == nullptr
                  ? nullptr
                  : static_cast<std::byte*>(v.buffer->address()) +
                        v.offset * static_cast<catmerge::index_t>(catmerge::size_of(v.type)),
              v.type, v.rows, v.columns, v.row_stride, v.column_stride) {}
  operator HostView() const { return host_; }

 private:
  fake_buffer::access access_;
  HostView host_;
};
using reading = opened<catmerge::host_const_view>;
using writing = opened<catmerge::host_view>;

}  // namespace test

template <>
class catmerge::context<test::fake_device> {
 public:
  using domain = test::fake_device;
  using view = test::fake_view;
  using const_view = test::fake_const_view;
  using matrix = test::fake_matrix;

  static index_t rows(const const_view& v) { return v.rows; }
  static index_t columns(const const_view& v) { return v.columns; }
  static scalar_type type(const const_view& v) { return v.type; }

  matrix make(scalar_type type, index_t rows, index_t columns) { return {type, rows, columns}; }

  const_view slice(const const_view& v, index_t row, index_t rows, index_t column,
                   index_t columns) {
    return v.window(row, rows, column, columns);
  }
  view slice(const view& v, index_t row, index_t rows, index_t column, index_t columns) {
    return {v.handle.window(row, rows, column, columns)};
  }

  void assign(const const_view& x, const view& y) {
    count(), host_.assign(test::reading(x), test::writing(y));
  }
  void subtract(const const_view& a, const const_view& b, const view& y) {
    count(), host_.subtract(test::reading(a), test::reading(b), test::writing(y));
  }
  void transpose(const const_view& x, const view& y) {
    count(), host_.transpose(test::reading(x), test::writing(y));
  }
  void accumulate(double alpha, std::span<const const_view> list, const view& y) {
    std::deque<test::reading> open;
    count(), host_.accumulate(alpha, opened(list, open), test::writing(y));
  }
  void accumulate(double alpha, std::span<const const_view> list, const const_view& b,
                  const view& y) {
    std::deque<test::reading> open;
    count(), host_.accumulate(alpha, opened(list, open), test::reading(b), test::writing(y));
  }
  void axpy(double alpha, const const_view& x, const view& y) {
    count(), host_.axpy(alpha, test::reading(x), test::writing(y));
  }
  void scale(double alpha, const view& y) { count(), host_.scale(alpha, test::writing(y)); }
  void multiply(double alpha, const const_view& a, op op_a, const const_view& b, op op_b,
                double beta, const view& y) {
    count(), host_.multiply(alpha, test::reading(a), op_a, test::reading(b), op_b, beta,
                            test::writing(y));
  }
  double squared_norm(const const_view& x) { return count(), host_.squared_norm(test::reading(x)); }
  double dot(const const_view& x, const const_view& y) {
    return count(), host_.dot(test::reading(x), test::reading(y));
  }
  void add_diagonal(double alpha, const const_view& x, const view& y) {
    count(), host_.add_diagonal(alpha, test::reading(x), test::writing(y));
  }
  void column_energies(double alpha, const const_view& x, const view& y) {
    count(), host_.column_energies(alpha, test::reading(x), test::writing(y));
  }
  void weighted_square(double alpha, const const_view& w, const const_view& x, const view& y) {
    count(), host_.weighted_square(alpha, test::reading(w), test::reading(x), test::writing(y));
  }
  void zero_rows(std::span<const index_t> list, const view& y) {
    count(), host_.zero_rows(list, test::writing(y));
  }
  void scale_columns(std::span<const double> w, const view& y) {
    count(), host_.scale_columns(w, test::writing(y));
  }
  void map(entry_function f, double a, const const_view& x, const view& y) {
    count(), host_.map(f, a, test::reading(x), test::writing(y));
  }
  void zip(pair_function f, const const_view& p, const const_view& q, const view& y) {
    count(), host_.zip(f, test::reading(p), test::reading(q), test::writing(y));
  }
  void count_keys(const const_view& x, int depth, std::uint64_t before,
                  std::span<std::uint64_t> counts) {
    auto& t = test::fake_traffic();
    ++t.reads;
    t.bytes_read += transferred(counts.size_bytes());
    count(), host_.count_keys(test::reading(x), depth, before, counts);
  }
  bool all_finite(const const_view& x) { return count(), host_.all_finite(test::reading(x)); }
  std::vector<double> symmetric_eigen(const view& y, index_t last) {
    return count(), host_.symmetric_eigen(test::writing(y), last);
  }

  void concurrently(index_t count, const std::function<void(index_t)>& f) {
    for (index_t i = 0; i < count; ++i) f(i);
  }

  small_matrix to_host(const const_view& x) {
    auto& t = test::fake_traffic();
    ++t.reads;
    t.bytes_read += transferred(size_on_host(x));
    return count(), host_.to_host(test::reading(x));
  }
  void from_host(const small_matrix& m, const view& y) {
    auto& t = test::fake_traffic();
    ++t.writes;
    t.bytes_written += transferred(size_on_host(y));
    count(), host_.from_host(m, test::writing(y));
  }

 private:
  static void count() { ++test::fake_traffic().operations; }
  static std::vector<host_const_view> opened(std::span<const const_view> list,
                                             std::deque<test::reading>& open) {
    std::vector<host_const_view> all;
    for (const auto& a : list) all.push_back(open.emplace_back(a));
    return all;
  }
  static std::size_t size_on_host(const const_view& v) {
    return static_cast<std::size_t>(v.rows * v.columns) * sizeof(double);
  }
  static std::size_t transferred(std::size_t bytes) {
    test::fake_traffic().largest = std::max(test::fake_traffic().largest, bytes);
    return bytes;
  }

  context<host> host_;
};

static_assert(catmerge::compute_context<catmerge::context<test::fake_device>>);

namespace test {

/// The tensor type of the device's users: of rank 1, 2 or a rank known at run time.
template <int Rank>
class fake_tensor {
 public:
  fake_tensor(catmerge::scalar_type type, catmerge::index_t rows, catmerge::index_t columns)
      : memory_(type, rows, columns) {}

  /// The tests' own doors, which are not counted: they are no part of any algorithm.
  template <class M>
  static fake_tensor upload(const M& m) {
    fake_tensor t(catmerge::scalar_type_v<typename M::Scalar>, m.rows(), m.cols());
    catmerge::context<catmerge::host>().assign(catmerge::const_view_of(m), writing(t.view()));
    return t;
  }
  template <class S>
  Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> download() const {
    const fake_const_view v = memory_;
    Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> m(v.rows, v.columns);
    catmerge::context<catmerge::host>().assign(reading(v), catmerge::view_of(m));
    return m;
  }

  fake_view view() { return memory_; }
  fake_const_view view() const { return memory_; }

 private:
  fake_matrix memory_;
};

}  // namespace test

template <int Rank>
struct catmerge::tensor_traits<test::fake_tensor<Rank>> {
  using domain = test::fake_device;
  static constexpr int rank = Rank;
  static test::fake_const_view view(const test::fake_tensor<Rank>& t) { return t.view(); }
  static test::fake_view view(test::fake_tensor<Rank>& t) { return t.view(); }
  static test::fake_tensor<Rank> make(const test::fake_tensor<Rank>& like, index_t rows,
                                      index_t columns) {
    return {compute_type(like.view().type), rows, columns};
  }
};

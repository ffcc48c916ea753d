// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// Every line of catmerge::compute_context, once missing and, if the result's type counts, once of
// another type.
#include <catmerge/features/statistics.hpp>
#include <catmerge/merge/task_vector.hpp>

struct there {};  // a domain

struct handle {
  operator int() const;
};
struct tensor_there {};

template <>
class catmerge::context<there> {
 public:
#if defined(CASE_other_domain)  // expect: catmerge: context<Domain>::domain is missing, or is not
  using domain = host;
#elif !defined(CASE_no_domain)  // expect: catmerge: context<Domain>::domain is missing, or is not
  using domain = there;
#endif

  struct read_handle {};
#ifdef CASE_view_does_not_convert  // expect: catmerge: context<Domain>::view must convert
  struct written_handle {};
#else
  struct written_handle : read_handle {};
#endif
  struct owner {
#ifdef CASE_matrix_never_empty  // expect: catmerge: a context<Domain>::matrix can be made empty
    explicit owner(int);
#endif
#ifndef CASE_matrix_is_no_view  // expect: catmerge: context<Domain>::matrix must convert to view
    operator written_handle();
#endif
#ifndef CASE_matrix_is_no_const_view  // expect: catmerge: a const context<Domain>::matrix must
    operator read_handle() const;
#endif
  };
#ifndef CASE_no_view  // expect: catmerge: context<Domain>::view is missing
  using view = written_handle;
#endif
#ifndef CASE_no_const_view  // expect: catmerge: context<Domain>::const_view is missing
  using const_view = read_handle;
#endif
#ifndef CASE_no_matrix  // expect: catmerge: context<Domain>::matrix is missing
  using matrix = owner;
#endif

#if defined(CASE_rows_of_int)  // expect: catmerge: context<Domain> lacks rows(v)
  int rows(read_handle);
#elif !defined(CASE_no_rows)  // expect: catmerge: context<Domain> lacks rows(v)
  index_t rows(read_handle);
#endif
#if defined(CASE_columns_of_int)  // expect: catmerge: context<Domain> lacks columns(v)
  int columns(read_handle);
#elif !defined(CASE_no_columns)  // expect: catmerge: context<Domain> lacks columns(v)
  index_t columns(read_handle);
#endif
#if defined(CASE_type_of_int)  // expect: catmerge: context<Domain> lacks type(v)
  int type(read_handle);
#elif !defined(CASE_no_type)  // expect: catmerge: context<Domain> lacks type(v)
  scalar_type type(read_handle);
#endif
#if defined(CASE_make_of_view)  // expect: catmerge: context<Domain> lacks make(type, rows, columns)
  written_handle make(scalar_type, index_t, index_t);
#elif !defined(CASE_no_make)  // expect: catmerge: context<Domain> lacks make(type, rows, columns)
  owner make(scalar_type, index_t, index_t);
#endif
#ifndef CASE_no_slice  // expect: catmerge: context<Domain> lacks slice(const_view, row, rows,
  read_handle slice(read_handle, index_t, index_t, index_t, index_t);
#endif
#ifndef CASE_no_writable_slice  // expect: catmerge: context<Domain> lacks slice(view, row, rows,
  written_handle slice(written_handle, index_t, index_t, index_t, index_t);
#endif
#ifndef CASE_no_assign  // expect: catmerge: context<Domain> lacks assign(x, y)
  void assign(read_handle, written_handle);
#endif
#ifndef CASE_no_subtract  // expect: catmerge: context<Domain> lacks subtract(a, b, y)
  void subtract(read_handle, read_handle, written_handle);
#endif
#ifndef CASE_no_transpose  // expect: catmerge: context<Domain> lacks transpose(x, y)
  void transpose(read_handle, written_handle);
#endif
#ifndef CASE_no_sum  // expect: catmerge: context<Domain> lacks accumulate(alpha, list, y)
  void accumulate(double, std::span<const read_handle>, written_handle);
#endif
#ifndef CASE_no_diagonal  // expect: catmerge: context<Domain> lacks add_diagonal(alpha, x, y)
  void add_diagonal(double, read_handle, written_handle);
#endif
#ifndef CASE_no_accumulate  // expect: catmerge: context<Domain> lacks accumulate(alpha, list, b, y)
  void accumulate(double, std::span<const read_handle>, read_handle, written_handle);
#endif
#ifndef CASE_no_axpy  // expect: catmerge: context<Domain> lacks axpy(alpha, x, y)
  void axpy(double, read_handle, written_handle);
#endif
#ifndef CASE_no_scale  // expect: catmerge: context<Domain> lacks scale(alpha, y)
  void scale(double, written_handle);
#endif
#if defined(CASE_multiply_without_beta)  // expect: catmerge: context<Domain> lacks multiply(alpha,
  void multiply(double, read_handle, op, read_handle, op, written_handle);
#elif !defined( \
    CASE_no_multiply)  // expect: catmerge: context<Domain> lacks multiply(alpha, a, op, b,
  void multiply(double, read_handle, op, read_handle, op, double, written_handle);
#endif
#if defined(CASE_squared_norm_of_float)  // expect: catmerge: context<Domain> lacks squared_norm(x)
  float squared_norm(read_handle);
#elif !defined(CASE_no_squared_norm)  // expect: catmerge: context<Domain> lacks squared_norm(x)
  double squared_norm(read_handle);
#endif
#if defined(CASE_dot_of_float)  // expect: catmerge: context<Domain> lacks dot(x, y)
  float dot(read_handle, read_handle);
#elif !defined(CASE_no_dot)  // expect: catmerge: context<Domain> lacks dot(x, y)
  double dot(read_handle, read_handle);
#endif
#ifndef CASE_no_column_energies  // expect: catmerge: context<Domain> lacks column_energies(alpha,
  void column_energies(double, read_handle, written_handle);
#endif
#ifndef CASE_no_weighted_square  // expect: catmerge: context<Domain> lacks weighted_square(alpha,
  void weighted_square(double, read_handle, read_handle, written_handle);
#endif
#ifndef CASE_no_zero_rows  // expect: catmerge: context<Domain> lacks zero_rows(list, y)
  void zero_rows(std::span<const index_t>, written_handle);
#endif
#if defined(CASE_scale_columns_by_floats)  // expect: context<Domain> lacks scale_columns(w, y)
  void scale_columns(std::span<const float>, written_handle);
#elif !defined( \
    CASE_no_scale_columns)  // expect: catmerge: context<Domain> lacks scale_columns(w, y)
  void scale_columns(std::span<const double>, written_handle);
#endif
#if defined(CASE_map_without_number)  // expect: catmerge: context<Domain> lacks map(f, a, x, y)
  void map(entry_function, read_handle, written_handle);
#elif !defined(CASE_no_map)  // expect: catmerge: context<Domain> lacks map(f, a, x, y)
  void map(entry_function, double, read_handle, written_handle);
#endif
#if defined(CASE_zip_of_one)  // expect: catmerge: context<Domain> lacks zip(f, p, q, y)
  void zip(pair_function, read_handle, written_handle);
#elif !defined(CASE_no_zip)  // expect: catmerge: context<Domain> lacks zip(f, p, q, y)
  void zip(pair_function, read_handle, read_handle, written_handle);
#endif
#if defined(CASE_count_keys_of_32_bits)  // expect: catmerge: context<Domain> lacks count_keys(x,
  void count_keys(read_handle, int, std::uint64_t, std::span<std::uint32_t>);
#elif !defined(CASE_no_count_keys)  // expect: catmerge: context<Domain> lacks count_keys(x, depth,
  void count_keys(read_handle, int, std::uint64_t, std::span<std::uint64_t>);
#endif
#if defined(CASE_all_finite_of_int)  // expect: catmerge: context<Domain> lacks all_finite(x)
  int all_finite(read_handle);
#elif !defined(CASE_no_all_finite)  // expect: catmerge: context<Domain> lacks all_finite(x)
  bool all_finite(read_handle);
#endif
#if defined(CASE_symmetric_eigen_of_void)  // expect: lacks symmetric_eigen(y, n)
  void symmetric_eigen(written_handle, index_t);
#elif !defined( \
    CASE_no_symmetric_eigen)  // expect: catmerge: context<Domain> lacks symmetric_eigen(y, n)
  std::vector<double> symmetric_eigen(written_handle, index_t);
#endif
#if defined(CASE_concurrently_without_count)  // expect: context<Domain> lacks concurrently(count,
                                              // f)
  void concurrently(const std::function<void(index_t)>&);
#elif !defined( \
    CASE_no_concurrently)  // expect: catmerge: context<Domain> lacks concurrently(count, f)
  void concurrently(index_t, const std::function<void(index_t)>&);
#endif
#if defined(CASE_to_host_of_floats)  // expect: catmerge: context<Domain> lacks to_host(x)
  Eigen::MatrixXf to_host(read_handle);
#elif !defined(CASE_no_to_host)  // expect: catmerge: context<Domain> lacks to_host(x)
  Eigen::MatrixXd to_host(read_handle);
#endif
#ifndef CASE_no_from_host  // expect: catmerge: context<Domain> lacks from_host(m, y)
  void from_host(const Eigen::MatrixXd&, written_handle);
#endif
};

template <>
struct catmerge::tensor_traits<tensor_there> {
  using domain = there;
  static constexpr int rank = 2;
  static context<there>::read_handle view(const tensor_there&);
  static context<there>::written_handle view(tensor_there&);
  static tensor_there make(const tensor_there&, index_t, index_t);
};

struct nowhere {};

void calls(const tensor_there& t) {
  catmerge::task_vector(t, t);
#ifdef CASE_statistics_without_context  // expect: catmerge: context<Domain> is not specialised
  catmerge::feature_statistics<nowhere> statistics;
#endif
#ifdef CASE_moments_without_context  // expect: catmerge: context<Domain> is not specialised
  catmerge::moment_statistics<nowhere> statistics;
#endif
#ifdef CASE_statistics_view_without_context  // expect: catmerge: context<Domain> is not specialised
  catmerge::statistics_view<nowhere> statistics;
#endif
}

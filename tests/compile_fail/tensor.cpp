// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// The members that tensor_traits must have, and the tensors that a call takes.
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/merge/task_vector.hpp>
#include <catmerge/methods/cat.hpp>

struct mine {
  float data[4];
};
struct no_tensor {};

/// A range that makes a matrix each time it is looked at.
struct made_anew {
  struct iterator {
    int i;
    Eigen::MatrixXf operator*() const { return Eigen::MatrixXf(2, 2); }
    iterator& operator++() { return ++i, *this; }
    bool operator!=(const iterator& other) const { return i != other.i; }
  };
  iterator begin() const { return {0}; }
  iterator end() const { return {2}; }
};
struct no_domain {};

template <>
struct catmerge::tensor_traits<mine> {
#if defined(CASE_no_context)  // expect: catmerge: context<Domain> is not specialised
  using domain = no_domain;
#elif !defined(CASE_no_domain)  // expect: catmerge: this argument is no tensor that catmerge knows
  using domain = host;
#endif

#if defined(CASE_rank_of_3)  // expect: catmerge: tensor_traits<T>::rank must be 1 (a vector), 2
  static constexpr int rank = 3;
#elif defined(CASE_rank_of_0)  // expect: catmerge: tensor_traits<T>::rank must be 1 (a vector), 2
  static constexpr int rank = 0;
#elif defined(CASE_rank_not_constant)  // expect: catmerge: tensor_traits<T>::rank is missing
  static int rank;
#elif defined(CASE_rank_no_number)     // expect: catmerge: tensor_traits<T>::rank is missing
  static constexpr const char* rank = "2";
#elif !defined(CASE_no_rank)           // expect: catmerge: tensor_traits<T>::rank is missing
  static constexpr int rank = 2;
#endif

#if defined(CASE_view_of_pointer)  // expect: catmerge: what tensor_traits<T>::view(const T&)
  static const float* view(const mine& m);
#elif defined(CASE_view_of_int)  // expect: catmerge: what tensor_traits<T>::view(const T&) returns
  static strided_view<const int> view(const mine& m);
#elif !defined(CASE_no_view)     // expect: catmerge: tensor_traits<T>::view(const T&) is missing
  static strided_view<const float> view(const mine& m);
#endif

#if defined(CASE_writable_view_of_const)  // expect: catmerge: this tensor is written to
  static strided_view<const float> view(mine& m);
#elif !defined(CASE_no_writable_view)  // expect: catmerge: this tensor is written to
  static strided_view<float> view(mine& m);
#endif

#if defined(CASE_make_no_tensor)  // expect: catmerge: what tensor_traits<T>::make(like, rows,
  static no_tensor make(const mine& like, index_t rows, index_t columns);
#elif defined( \
    CASE_make_read_only)  // expect: catmerge: what tensor_traits<T>::make(like, rows, columns)
  static Eigen::Map<const Eigen::MatrixXf> make(const mine& like, index_t rows, index_t columns);
#elif defined( \
    CASE_make_elsewhere)  // expect: catmerge: what tensor_traits<T>::make(like, rows, columns)
  struct result {};
  static result make(const mine& like, index_t rows, index_t columns);
#elif !defined( \
    CASE_no_make)  // expect: catmerge: tensor_traits<T>::make(like, rows, columns) is missing
  static Eigen::MatrixXf make(const mine& like, index_t rows, index_t columns);
#endif
};

#ifdef CASE_make_elsewhere
template <>
struct catmerge::tensor_traits<catmerge::tensor_traits<mine>::result> {
  using domain = no_domain;
  static constexpr int rank = 2;
  static strided_view<float> view(const tensor_traits<mine>::result&);
};
#endif

void calls(const mine& base, mine& expert, Eigen::MatrixXf& w, const Eigen::VectorXf& v,
           const std::vector<Eigen::MatrixXf>& w_of_tasks,
           const std::vector<Eigen::VectorXf>& v_of_tasks) {
  static_cast<void>(v), static_cast<void>(v_of_tasks), static_cast<void>(w_of_tasks);
  catmerge::subtract_base(base, expert);
  catmerge::task_vector(base, expert);
  catmerge::project_out(base, expert);

#ifdef CASE_number  // expect: catmerge: this argument is no tensor that catmerge knows
  catmerge::task_vector(w, 1.0f);
#endif
#ifdef CASE_expression  // expect: catmerge: this argument is an expression that its library has not
  catmerge::task_vector(w, w + w);
#endif
#ifdef CASE_const_output  // expect: catmerge: this tensor is written to, so it must not be const
  catmerge::subtract_base(w, w_of_tasks[0]);
#endif
#ifdef CASE_read_only_map  // expect: catmerge: this tensor is written to, so it must not be const
  Eigen::Map<const Eigen::MatrixXf> map(w.data(), 2, 2);
  catmerge::subtract_base(w, map);
#endif
#ifdef CASE_vector_for_matrix  // expect: catmerge: a matrix is needed here and this type is a
  catmerge::cat_linear(v, v_of_tasks, w_of_tasks);
#endif
#ifdef CASE_vector_for_rows  // expect: catmerge: a matrix is needed here and this type is a vector
  catmerge::cat_linear(w, w_of_tasks, v_of_tasks);
#endif
#ifdef CASE_matrix_for_shift  // expect: catmerge: a vector of d entries is needed here
  catmerge::cat_shift(w, w_of_tasks);
#endif
#ifdef CASE_matrix_for_scale  // expect: catmerge: a vector of d entries is needed here
  catmerge::cat_scale(w, w_of_tasks, w_of_tasks);
#endif
#ifdef CASE_matrix_for_mask  // expect: catmerge: a vector of d entries is needed here
  catmerge::shift_mask(0, w_of_tasks);
#endif
#ifdef CASE_features_no_tensor  // expect: catmerge: this argument is no tensor that catmerge knows
  catmerge::cat_linear(w, w_of_tasks, std::vector<no_tensor>(2));
#endif
#ifdef CASE_one_expert  // expect: catmerge: a range, with one element per task or weight, is needed
  catmerge::cat_linear(w, w, w_of_tasks);
#endif
#ifdef CASE_experts_made_anew  // expect: catmerge: the elements of this range are made anew
  catmerge::cat_linear(w, made_anew{}, w_of_tasks);
#endif
#ifdef CASE_one_expert_vector  // expect: catmerge: a range, with one element per task or weight, is
  catmerge::cat_shift(v, v);
#endif
#ifdef CASE_one_feature  // expect: catmerge: a range, with one element per task or weight, is
  catmerge::cat_linear(w, w_of_tasks, w);
#endif
#ifdef CASE_group_of_one_base  // expect: catmerge: a range, with one element per task or weight, is
  catmerge::cat_group(w, w_of_tasks, w_of_tasks);
#endif
#ifdef CASE_group_of_flat_experts  // expect: catmerge: a range, with one element per task or
  catmerge::cat_group(w_of_tasks, w_of_tasks, w_of_tasks);
#endif
#ifdef CASE_options_for_context  // expect: catmerge: the last argument of this call must be
  catmerge::cat_options options;
  catmerge::task_vector(w, w, options);
#endif
}

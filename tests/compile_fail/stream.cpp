// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
//
// merge_stream's requirements on a method, a source, statistics and a sink.
#include <catmerge/adapt/eigen.hpp>
#include <catmerge/merge/stream.hpp>

#include "support/device.hpp"

using catmerge::index_t;
using catmerge::parameter_group;
using catmerge::parameter_info;
struct no_tensor {};

struct read_only {};
template <>
struct catmerge::tensor_traits<read_only> {
  using domain = host;
  static constexpr int rank = 2;
  static strided_view<const float> view(const read_only&);
};

struct method {
#if defined(CASE_merge_without_report)  // expect: catmerge: a merging method needs combine(context,
  template <class Context>
  void merge(Context&, const catmerge::layer_problem<Context>&, typename Context::view) const;
#elif defined(CASE_merge_not_const)  // expect: catmerge: a merging method needs combine(context,
  template <class Context>
  catmerge::layer_report merge(Context&, const catmerge::layer_problem<Context>&,
                               typename Context::view);
#elif !defined(CASE_no_merge)  // expect: or merge(context, problem, out) const, which returns a
  template <class Context>
  catmerge::layer_report merge(Context&, const catmerge::layer_problem<Context>&,
                               typename Context::view) const;
#endif
  bool needs_statistics(catmerge::layer_kind) const;
};

struct source {
#if defined(CASE_tasks_of_int)  // expect: catmerge: a parameter source needs tasks()
  int tasks();
#elif !defined(CASE_no_tasks)  // expect: catmerge: a parameter source needs tasks()
  std::vector<std::string> tasks();
#endif
#if defined(CASE_flat_groups)  // expect: catmerge: a parameter source needs groups()
  parameter_group groups();
#elif !defined(CASE_no_groups)  // expect: catmerge: a parameter source needs groups()
  std::vector<parameter_group> groups();
#endif
#if defined(CASE_base_of_void)  // expect: catmerge: a parameter source's base(parameter) must
  void base(const parameter_info&);
#elif defined(CASE_base_no_tensor)  // expect: catmerge: a parameter source's base(parameter) must
  no_tensor base(const parameter_info&);
#elif defined( \
    CASE_base_not_makeable)         // expect: catmerge: tensor_traits<T>::make(like, rows, columns)
  read_only base(const parameter_info&);
#elif defined(CASE_base_on_device)  // expect: catmerge: the tensors of one call
  device_tensor<2> base(const parameter_info&);
#elif !defined(CASE_no_base)        // expect: catmerge: a parameter source needs base(parameter)
  const Eigen::MatrixXf& base(const parameter_info&);
#endif
#if defined(CASE_expert_no_tensor)  // expect: catmerge: a parameter source's expert(task,
  no_tensor expert(index_t, const parameter_info&);
#elif defined(CASE_expert_on_device)  // expect: catmerge: the tensors of one call
  device_tensor<2> expert(index_t, const parameter_info&);
#elif !defined( \
    CASE_no_expert)  // expect: catmerge: a parameter source needs expert(task, parameter)
  Eigen::MatrixXf expert(index_t, const parameter_info&);
#endif
#ifndef CASE_no_source_release  // expect: catmerge: a parameter source needs release(group)
  void release(const parameter_group&);
#endif
};

struct statistics {
#if defined(CASE_statistics_of_float)  // expect: catmerge: a statistics source needs get(task,
  float get(index_t, const parameter_info&);
#elif defined(CASE_statistics_on_device)  // expect: copy statistics of another one there first
  std::optional<catmerge::statistics_view<device> > get(index_t, const parameter_info&);
#elif !defined(CASE_no_get)  // expect: catmerge: a statistics source needs get(task, parameter)
  std::optional<catmerge::statistics_view<catmerge::host> > get(index_t, const parameter_info&);
#endif
#ifndef CASE_no_statistics_release  // expect: catmerge: a statistics source needs release(group)
  void release(const parameter_group&);
#endif
};

struct sink {
#if defined(CASE_put_another_tensor)  // expect: catmerge: a parameter sink needs put(parameter,
  void put(const parameter_info&, device_tensor<2>);
#elif !defined(CASE_no_put)  // expect: catmerge: a parameter sink needs put(parameter, tensor)
  void put(const parameter_info&, Eigen::MatrixXf);
#endif
};

void calls(source& in, statistics& s, sink& out, catmerge::context<catmerge::host>& c) {
  catmerge::merge_stream(method{}, in, s, out, c);
#ifdef CASE_device_context  // expect: catmerge: the tensors of one call
  catmerge::context<device> elsewhere;
  catmerge::merge_stream(method{}, in, s, out, elsewhere);
#endif
#ifdef CASE_no_context  // expect: catmerge: the last argument of this call is no catmerge::context
  int none = 0;
  catmerge::merge_stream(method{}, in, s, out, none);
#endif
}

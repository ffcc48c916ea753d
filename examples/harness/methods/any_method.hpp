// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/then.hpp>
#include <catmerge/methods/cat.hpp>
#include <catmerge/tensor/host/host.hpp>
#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

/// Methods and transforms that are chosen when the program runs, on host memory.
namespace catmerge::harness {

using host_problem = layer_problem<context<host>>;
using host_vectors = vector_list<context<host>>;

namespace detail {

/// The coefficient of a method, or null: its member alpha, or that of its options. A chain and a
/// `then` have their method's.
template <class M>
double* alpha_of(M& m) {
  if constexpr (requires { m.alpha; })
    return &m.alpha;
  else if constexpr (requires { m.options.alpha; })
    return &m.options.alpha;
  else if constexpr (requires { m.second; })
    return alpha_of(m.second);
  else if constexpr (requires {
                       m.method;
                       m.after;
                     })
    return alpha_of(m.method);
  else if constexpr (requires { m.find_alpha(); })
    return m.find_alpha();
  else
    return nullptr;
}

/// The options of the CAT trims in a method or a transform, or null.
template <class M>
cat_options* trims_of(M& m) {
  if constexpr (requires(cat_options & o) { o = m.options; })
    return &m.options;
  else if constexpr (requires {
                       m.first;
                       m.second;
                     }) {
    cat_options* const found = trims_of(m.first);
    return found != nullptr ? found : trims_of(m.second);
  } else if constexpr (requires {
                         m.method;
                         m.after;
                       }) {
    return trims_of(m.method);
  } else if constexpr (requires { m.find_trims(); })
    return m.find_trims();
  else
    return nullptr;
}

/// The members that methods and transforms share, behind virtual calls. Role adds the rest.
struct any_role {
  any_role() = default;
  any_role(const any_role&) = default;
  any_role& operator=(const any_role&) = delete;
  virtual ~any_role() = default;
  virtual bool needs_statistics(layer_kind kind) const = 0;
  virtual bool needs_importance() const = 0;
  virtual bool sees_matrices() const = 0;
  virtual bool needs_whole_tables() const = 0;
  virtual bool scan_wanted() const = 0;
  virtual void scan(context<host>& c, const host_problem& p, host_vectors vectors) = 0;
  virtual void end_scan() = 0;
  virtual double* alpha() = 0;
  virtual cat_options* trims() = 0;
};

/// The calls of any_role for an object of type M.
template <class M, class Role>
struct any_calls : Role {
  explicit any_calls(M m) : object(std::move(m)) {}
  bool needs_statistics(layer_kind kind) const override {
    return catmerge::needs_statistics(object, kind);
  }
  bool needs_importance() const override { return catmerge::needs_importance(object); }
  bool sees_matrices() const override { return catmerge::sees_matrices(object); }
  bool needs_whole_tables() const override { return catmerge::needs_whole_tables(object); }
  bool scan_wanted() const override { return catmerge::scan_wanted(object); }
  void scan(context<host>& c, const host_problem& p, host_vectors vectors) override {
    catmerge::scan_parameter(object, c, p, vectors);
  }
  void end_scan() override { catmerge::end_scan(object); }
  double* alpha() override { return alpha_of(object); }
  cat_options* trims() override { return trims_of(object); }
  M object;
};

/// A value that holds an object of one of many types. A copy holds a copy of the object.
template <class Role>
class any_of_role {
 public:
  any_of_role(const any_of_role& other) : held_(other.held_->clone()) {}
  any_of_role(any_of_role&&) noexcept = default;
  any_of_role& operator=(const any_of_role& other) {
    held_ = other.held_->clone();
    return *this;
  }
  any_of_role& operator=(any_of_role&&) noexcept = default;
  ~any_of_role() = default;

  bool needs_statistics(layer_kind kind) const { return held_->needs_statistics(kind); }
  bool needs_importance() const { return held_->needs_importance(); }
  /// True if the method itself treats tables and embeddings as matrices.
  bool sees_matrices() const { return held_->sees_matrices(); }
  /// True if tables and embeddings must come whole, not in pieces of rows.
  bool needs_whole_tables() const { return held_->needs_whole_tables(); }
  bool scan_wanted() const { return held_->scan_wanted(); }
  void scan(context<host>& c, const host_problem& p, host_vectors vectors) {
    held_->scan(c, p, vectors);
  }
  void end_scan() { held_->end_scan(); }

  /// The coefficient, or null.
  double* find_alpha() { return held_->alpha(); }
  /// The options of the CAT trims, or null.
  cat_options* find_trims() { return held_->trims(); }

 protected:
  explicit any_of_role(std::unique_ptr<Role> held) : held_(std::move(held)) {}
  std::unique_ptr<Role> held_;
};

struct transform_role : any_role {
  virtual std::unique_ptr<transform_role> clone() const = 0;
  virtual void apply(context<host>& c, const host_problem& p, host_vectors vectors,
                     layer_report& report) const = 0;
};

struct merged_role : any_role {
  virtual std::unique_ptr<merged_role> clone() const = 0;
  virtual bool reads_vectors() const = 0;
  virtual void read_names(const std::vector<std::string>& names) = 0;
  virtual void apply(context<host>& c, const host_problem& p, host_vectors vectors,
                     const host_view& tau, layer_report& report) const = 0;
};

struct method_role : any_role {
  virtual std::unique_ptr<method_role> clone() const = 0;
  virtual double factor() const = 0;
  virtual void combine(context<host>& c, const host_problem& p, host_vectors vectors,
                       const host_view& tau, layer_report& report) const = 0;
  virtual layer_report merge(context<host>& c, const host_problem& p, host_view out) const = 0;
};

}  // namespace detail

/// Any vector_transform.
class any_transform : public detail::any_of_role<detail::transform_role> {
 public:
  template <class T>
  requires(!std::is_same_v<T, any_transform>) explicit any_transform(T t)
      : any_of_role(std::make_unique<holder<T>>(std::move(t))) {}

  void apply(context<host>& c, const host_problem& p, host_vectors vectors,
             layer_report& report) const {
    held_->apply(c, p, vectors, report);
  }

 private:
  template <class T>
  struct holder final : detail::any_calls<T, detail::transform_role> {
    using detail::any_calls<T, detail::transform_role>::any_calls;
    std::unique_ptr<detail::transform_role> clone() const override {
      return std::make_unique<holder>(this->object);
    }
    void apply(context<host>& c, const host_problem& p, host_vectors vectors,
               layer_report& report) const override {
      this->object.apply(c, p, vectors, report);
    }
  };
};

/// Any merged_transform.
class any_merged_transform : public detail::any_of_role<detail::merged_role> {
 public:
  template <class T>
  requires(!std::is_same_v<T, any_merged_transform>) explicit any_merged_transform(T t)
      : any_of_role(std::make_unique<holder<T>>(std::move(t))) {}

  bool reads_vectors() const { return held_->reads_vectors(); }
  /// Takes the names of all tensors, for what depends on the network.
  void read_names(const std::vector<std::string>& names) { held_->read_names(names); }
  void apply(context<host>& c, const host_problem& p, host_vectors vectors, const host_view& tau,
             layer_report& report) const {
    held_->apply(c, p, vectors, tau, report);
  }

 private:
  template <class T>
  struct holder final : detail::any_calls<T, detail::merged_role> {
    using detail::any_calls<T, detail::merged_role>::any_calls;
    std::unique_ptr<detail::merged_role> clone() const override {
      return std::make_unique<holder>(this->object);
    }
    bool reads_vectors() const override { return catmerge::reads_vectors(this->object); }
    void read_names(const std::vector<std::string>& names) override {
      if constexpr (requires(T & t) { t.read_names(names); }) this->object.read_names(names);
    }
    void apply(context<host>& c, const host_problem& p, host_vectors vectors, const host_view& tau,
               layer_report& report) const override {
      this->object.apply(c, p, vectors, tau, report);
    }
  };
};

/// Any vector_method.
class any_method : public detail::any_of_role<detail::method_role> {
 public:
  template <class M>
  requires(!std::is_same_v<M, any_method>) explicit any_method(M m)
      : any_of_role(std::make_unique<holder<M>>(std::move(m))) {}

  /// The held method if it is an M, else null.
  template <class M>
  const M* find() const {
    const auto* const found = dynamic_cast<const holder<M>*>(held_.get());
    return found == nullptr ? nullptr : &found->object;
  }

  double factor() const { return held_->factor(); }
  void combine(context<host>& c, const host_problem& p, host_vectors vectors, const host_view& tau,
               layer_report& report) const {
    held_->combine(c, p, vectors, tau, report);
  }
  layer_report merge(context<host>& c, const host_problem& p, host_view out) const {
    return held_->merge(c, p, out);
  }

 private:
  template <class M>
  struct holder final : detail::any_calls<M, detail::method_role> {
    using detail::any_calls<M, detail::method_role>::any_calls;
    std::unique_ptr<detail::method_role> clone() const override {
      return std::make_unique<holder>(this->object);
    }
    double factor() const override { return this->object.factor(); }
    void combine(context<host>& c, const host_problem& p, host_vectors vectors,
                 const host_view& tau, layer_report& report) const override {
      this->object.combine(c, p, vectors, tau, report);
    }
    layer_report merge(context<host>& c, const host_problem& p, host_view out) const override {
      return merge_problem(this->object, c, p, out);
    }
  };
};

}  // namespace catmerge::harness

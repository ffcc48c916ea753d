// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/checkpoints/inspect.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <iomanip>
#include <map>

namespace catmerge::harness {

namespace {

/// The kind and its treatment: "fused linear, 3 parts, d_in x d_out, not trimmed".
std::string described(const model::classification& c) {
  using kind = model::parameter_kind;
  std::string text(model::name_of(c.kind));
  if (c.parts > 1) text += ", " + std::to_string(c.parts) + " parts";
  if (c.layout == model::matrix_layout::in_out) text += ", d_in x d_out";
  if (c.stacked) text += ", stacked";
  const bool copied =
      c.kind == kind::fixed || c.kind == kind::packed || c.kind == kind::running_statistics;
  if (!c.trim && !copied) text += ", not trimmed";
  if (c.source == model::rule_source::general) text += ", by the general rule";
  return text;
}

/// A table of a checkpoint's tensors, and totals.
class inspection {
 public:
  inspection(const io::checkpoint& file, const model::name_rules& rules, std::ostream& out)
      : file_(file), rules_(rules), out_(out) {
    for (const auto& name : file.names()) {
      width_ = std::max(width_, name.size());
      shapes_ = std::max(shapes_, io::to_string(file.at(name).shape).size());
    }
  }

  void print() {
    out_ << file_.path().string() << '\n';
    row("name", "dtype", "shape", "kind");
    for (const auto& name : file_.names()) print(file_.at(name));
    print_totals();
  }

 private:
  void row(const std::string& name, const std::string& type, const std::string& shape,
           const std::string& kind) {
    out_ << "  " << std::left << std::setw(static_cast<int>(width_)) << name << "  " << std::setw(5)
         << type << ' ' << std::setw(static_cast<int>(shapes_)) << shape << "  " << kind << '\n';
  }

  void print(const io::tensor_entry& entry) {
    const auto c = rules_.classify(entry);
    row(entry.name, std::string(io::name_of(entry.type)), io::to_string(entry.shape), described(c));
    if (c.source == model::rule_source::general) ++general_[c.rule];
    if (c.kind == model::parameter_kind::unknown) ++unknown_;
    if (c.kind == model::parameter_kind::token_table) ++token_tables_;
    const auto [rows, columns] = matrix_extents(entry.shape);
    values_ += rows * columns;
  }

  void print_totals() {
    out_ << "  " << file_.names().size() << " tensors, " << values_ << " values\n";
    if (const auto type = model_type_of(file_); !type.empty())
      out_ << "  model_type: " << type << '\n';
    for (const auto& [sentence, count] : general_)
      out_ << "  general rule, " << count << " of them: " << sentence << '\n';
    if (token_tables_ > 0)
      out_ << "  token table, " << token_tables_
           << " of them: the mean, whatever alpha, by methods that merge tables as matrices\n";
    if (unknown_ > 0)
      out_ << "  unknown, " << unknown_
           << " of them: no rule names them; --rule PATTERN=KIND classifies them\n";
    for (const auto& [key, value] : file_.metadata())
      out_ << "  metadata " << key << ": " << value << '\n';
  }

  const io::checkpoint& file_;
  const model::name_rules& rules_;
  std::ostream& out_;
  std::size_t width_ = 4, shapes_ = 5;  // of the columns, at least their headings
  std::int64_t values_ = 0, unknown_ = 0, token_tables_ = 0;
  std::map<std::string, std::int64_t> general_;  // the number of tensors by sentence of the general
                                                 // rule
};

}  // namespace

void inspect(const inspection_request& request, std::ostream& out) {
  model::name_rules checked;
  add_rules(request.rules, checked);  // errors in the rules come before any file is read
  for (const auto& path : request.checkpoints) {
    const io::checkpoint file(path);
    print_warnings(file);
    auto rules = rules_of(file);
    add_rules(request.rules, rules);
    inspection(file, rules, out).print();
  }
}

}  // namespace catmerge::harness

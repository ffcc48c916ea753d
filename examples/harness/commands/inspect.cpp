// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/checkpoints/tensor_windows.hpp>
#include <harness/commands/command_line.hpp>
#include <iomanip>
#include <iostream>
#include <map>

namespace catmerge::harness {

namespace {

/// The kind and all that it is treated by: "fused linear, 3 parts, d_in x d_out, not trimmed".
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

void run_inspect(const std::vector<std::string>& paths, const std::vector<std::string>& given) {
  model::name_rules checked;
  add_rules(given, checked);  // what is wrong with them is told before a file is read
  for (const auto& path : paths) {
    const io::checkpoint file(path);
    print_warnings(file);
    auto rules = rules_of(file);
    add_rules(given, rules);
    std::size_t width = 4, shapes = 5;
    std::int64_t values = 0, unknown = 0;
    std::map<std::string, std::int64_t> general;  // how many tensors each sentence of it decided
    for (const auto& name : file.names()) {
      width = std::max(width, name.size());
      shapes = std::max(shapes, io::to_string(file.at(name).shape).size());
    }
    std::cout << path << '\n';
    const auto row = [&](const std::string& name, const std::string& type, const std::string& shape,
                         const std::string& kind) {
      std::cout << "  " << std::left << std::setw(static_cast<int>(width)) << name << "  "
                << std::setw(5) << type << ' ' << std::setw(static_cast<int>(shapes)) << shape
                << "  " << kind << '\n';
    };
    row("name", "dtype", "shape", "kind");
    for (const auto& name : file.names()) {
      const auto& entry = file.at(name);
      const auto c = rules.classify(entry);
      row(name, std::string(io::name_of(entry.type)), io::to_string(entry.shape), described(c));
      if (c.source == model::rule_source::general) ++general[c.rule];
      unknown += c.kind == model::parameter_kind::unknown;
      const auto [rows, columns] = matrix_extents(entry.shape);
      values += rows * columns;
    }
    std::cout << "  " << file.names().size() << " tensors, " << values << " values\n";
    if (const auto type = model_type_of(file); !type.empty())
      std::cout << "  model_type: " << type << '\n';
    for (const auto& [sentence, count] : general)
      std::cout << "  general rule, " << count << " of them: " << sentence << '\n';
    if (unknown > 0)
      std::cout << "  unknown, " << unknown
                << " of them: no rule names them; --rule PATTERN=KIND says what they are\n";
    for (const auto& [key, value] : file.metadata())
      std::cout << "  metadata " << key << ": " << value << '\n';
  }
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto paths = std::make_shared<std::vector<std::string>>();
  auto rules = std::make_shared<std::vector<std::string>>();
  auto* command = program.add_subcommand(
      "inspect", "Names, shapes, types and kinds of the tensors of checkpoints");
  command->add_option("P", *paths, "Checkpoints")->required()->expected(-1);
  add_rule_option(*command, *rules);
  command->callback([paths, rules] { run_inspect(*paths, *rules); });
}

}  // namespace catmerge::harness

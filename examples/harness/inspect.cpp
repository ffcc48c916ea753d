// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/checkpoint.hpp>
#include <catmerge/model/networks.hpp>
#include <harness/checkpoint_warnings.hpp>
#include <harness/commands.hpp>
#include <harness/rules.hpp>
#include <harness/tensors.hpp>
#include <iomanip>
#include <iostream>

namespace catmerge::harness {

namespace {

void run_inspect(const std::vector<std::string>& paths, const std::vector<std::string>& given) {
  auto rules = model::known_networks();
  add_rules(given, rules);
  for (const auto& path : paths) {
    const io::checkpoint file(path);
    print_warnings(file);
    std::size_t width = 4, shapes = 5;
    std::int64_t values = 0;
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
      std::string kind(model::name_of(c.kind));
      if (!c.trim && c.kind != model::parameter_kind::fixed) kind += ", not trimmed";
      row(name, std::string(io::name_of(entry.type)), io::to_string(entry.shape), kind);
      const auto [rows, columns] = matrix_extents(entry.shape);
      values += rows * columns;
    }
    std::cout << "  " << file.names().size() << " tensors, " << values << " values\n";
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

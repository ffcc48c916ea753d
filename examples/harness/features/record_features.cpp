// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/model/layer_of.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/checkpoints/checkpoint_warnings.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/features/record_features.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/report/tell.hpp>
#include <harness/system/paths.hpp>
#include <harness/system/progress.hpp>
#include <map>
#include <memory>

namespace catmerge::harness {

namespace {

/// A block's statistics in the form of the file.
struct kept_statistics {
  statistics_form form;
  host_matrix data;
  index_t rows;
};

}  // namespace

void record_features(const features_request& request) {
  require_apart(request.output, {request.model, request.samples, request.config});
  if (!request.overwrite) io::require_free(request.output);
  const io::checkpoint model(request.model);
  print_warnings(model);
  auto rules = rules_of(model);
  add_rules(request.rules, rules);
  const auto network = open_network(model, request.config, untied_in(model, tell_one));
  std::map<std::string, layer_kind> kinds;
  for (const auto& name : model.names()) {
    const auto kind = layer_of(rules.classify(model.at(name)));
    if (kind == layer_kind::linear || kind == layer_kind::scale) kinds.emplace(name, kind);
  }
  pool threads(request.threads);
  context<host> c(threads.runner());
  sample_run run(*network, request.samples, request.sample_count,
                 std::make_unique<checkpoint_weights>(model), checkpoint_weights(model), kinds,
                 threads.runner());
  if (run.wrote_texts()) tell(wrote_texts_sentence({request.samples}), verbosity::normal);

  std::map<std::string, kept_statistics> kept;
  std::map<std::string, std::string> aliases;
  progress terminal;
  for (std::size_t block = 0; block < network->block_count(); ++block) {
    terminal.show("running blocks", static_cast<index_t>(block),
                  static_cast<index_t>(network->block_count()));
    run.advance(threads.runner());
    for (const auto& [name, owner] : run.recorded().owners()) {
      if (name != owner) {
        aliases.emplace(name, owner);
        continue;
      }
      const auto s = *run.recorded().find(name);
      host_matrix copy(s.data.type, s.data.rows, s.data.columns);
      c.assign(s.data, copy);
      kept.emplace(name, kept_statistics{s.form, std::move(copy), static_cast<index_t>(s.rows)});
    }
  }
  terminal.clear();

  std::vector<io::statistics_writer::declaration> declarations;
  for (const auto& [name, s] : kept) {
    const host_const_view v = s.data;
    const auto shape = s.form == statistics_form::second_moment ? io::shape_t{v.rows}
                                                                : io::shape_t{v.rows, v.columns};
    declarations.push_back({name, s.form, io::dtype_of(v.type), shape, s.rows});
  }
  io::statistics_writer writer(request.output, declarations, aliases, {},
                               request.overwrite ? io::existing::replace : io::existing::refuse);
  for (const auto& [name, s] : kept) {
    const host_const_view v = s.data;
    writer.write(name, {static_cast<const std::byte*>(v.data),
                        static_cast<std::size_t>(v.rows * v.columns) * size_of(v.type)});
  }
  writer.commit();
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/cat.hpp>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/methods/weight_average.hpp>
#include <catmerge/model/clip.hpp>
#include <filesystem>
#include <harness/commands.hpp>
#include <harness/open_network.hpp>
#include <harness/progress.hpp>
#include <harness/report.hpp>
#include <harness/rules.hpp>
#include <harness/statistics.hpp>
#include <iostream>
#include <map>
#include <optional>
#include <span>

namespace catmerge::harness {

namespace {

/// The command line as it was given.
struct arguments {
  std::string base, output, config, report;
  std::vector<std::string> experts, features, samples, rules;
  std::string method = "cat", preset = "paper", rescale, order = "sequential", rows = "sum",
              out_dtype = "base";
  double alpha = 0.4, energy = 0, lambda = 5, scale_lambda = 10, coefficient = 1;
  index_t rank = 4, scale_rank = 4, shift_rank = 4, sample_count = 0;
  bool positive = false;
  unsigned threads = default_threads();
};

[[noreturn]] void refuse(const std::string& option, const std::string& why) {
  throw CLI::ValidationError(option, why);
}

/// The files of `given`, one per expert and none else.
std::vector<task_file> files_of_tasks(const std::string& option,
                                      const std::vector<std::string>& given,
                                      const std::vector<task_file>& experts) {
  auto files = parse_task_files(option, given);
  const auto has = [](const std::vector<task_file>& list, const std::string& task) {
    return std::any_of(list.begin(), list.end(),
                       [&](const task_file& f) { return f.task == task; });
  };
  for (const auto& file : files)
    if (!has(experts, file.task)) refuse(option, "there is no --expert '" + file.task + "'");
  for (const auto& expert : experts)
    if (!has(files, expert.task)) refuse(option, "the expert '" + expert.task + "' has none");
  return files;
}

model::name_rules make_rules(const arguments& a) {
  auto rules = model::hugging_face_clip_vision();
  if (a.preset == "port") {
    // A hook on the attention module never sees the output projection; 1-D embeddings count as
    // shifts.
    model::parameter_rule out;
    out.pattern = "*.self_attn.out_proj.weight";
    out.trim = false;
    rules.add(out);
    model::parameter_rule token;
    token.pattern = "*class_embedding";
    token.kind = model::parameter_kind::shift;
    rules.add(token);
  }
  add_rules(a.rules, rules);
  return rules;
}

cat_options make_options(const CLI::App& command, const arguments& a) {
  cat_options o = a.preset == "port" ? cat_options::port() : cat_options::paper();
  const auto given = [&](const char* name) { return command.count(name) > 0; };
  o.alpha = a.alpha;
  if (given("--basis-energy"))
    o.linear.directions =
        energy{a.energy, a.preset == "port" ? energy::bound::below : energy::bound::reach};
  else if (a.positive)
    o.linear.directions = all_positive{};
  else
    std::get<top>(o.linear.directions).count = a.rank;
  o.linear.lambda = a.lambda;
  o.scale.coordinates.count = a.scale_rank;
  o.scale.lambda = a.scale_lambda;
  o.shift.count = a.shift_rank;
  if (given("--rescale"))
    o.linear.size = o.scale.size = a.rescale == "frobenius" ? rescale::frobenius : rescale::none;
  o.linear.order = a.order == "joint" ? trim_order::joint : trim_order::sequential;
  o.linear.rows = a.rows == "mean" ? row_weight::mean : row_weight::sum;
  o.diagnostics = !a.report.empty();
  validate(o);
  return o;
}

std::optional<io::dtype> out_dtype(const std::string& name) {
  static const std::map<std::string, io::dtype> types = {{"f64", io::dtype::f64},
                                                         {"f32", io::dtype::f32},
                                                         {"f16", io::dtype::f16},
                                                         {"bf16", io::dtype::bf16}};
  const auto found = types.find(name);
  return found == types.end() ? std::nullopt : std::optional(found->second);
}

json settings(const arguments& a, const cat_options& o, double coefficient) {
  json j;
  j["method"] = a.method;
  if (a.method != "average") j["alpha"] = a.alpha;
  if (a.method != "cat") return j;
  j["preset"] = a.preset;
  if (const auto* t = std::get_if<top>(&o.linear.directions)) j["rank"] = t->count;
  if (const auto* e = std::get_if<energy>(&o.linear.directions)) j["basis_energy"] = e->share;
  if (std::holds_alternative<all_positive>(o.linear.directions)) j["basis"] = "all positive";
  j["lambda"] = o.linear.lambda;
  j["scale_rank"] = o.scale.coordinates.count;
  j["scale_lambda"] = o.scale.lambda;
  j["shift_rank"] = o.shift.count;
  j["rescale"] = o.linear.size == rescale::frobenius ? "frobenius" : "none";
  j["order"] = a.order;
  j["rows"] = a.rows;
  if (!a.samples.empty()) {
    j["feature_coefficient"] = coefficient;
    j["samples"] = a.sample_count;
  }
  return j;
}

/// What users should know, in sentences.
std::vector<std::string> warnings_of(const std::vector<parameter_report>& reports,
                                     const checkpoint_set& set) {
  std::vector<std::string> warnings;
  const auto listed = [&](const std::string& what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    std::string text = std::to_string(names.size()) + " " + what + ":";
    for (std::size_t i = 0; i < std::min<std::size_t>(10, names.size()); ++i)
      text += " " + names[i];
    warnings.push_back(names.size() > 10 ? text + " ..." : text);
  };
  std::vector<std::string> missing, unknown, emptied;
  for (const auto& r : reports) {
    if (r.missing_statistics) missing.push_back(r.name);
    if (set.class_of(r.name).kind == model::parameter_kind::unknown) unknown.push_back(r.name);
    for (const index_t i : r.layer.emptied)
      emptied.push_back(r.name + " of '" + set.tasks()[static_cast<std::size_t>(i)] + "'");
  }
  listed("linear or scale parameters have no statistics and were merged by Task Arithmetic",
         missing);
  listed("parameters have names that no rule knows and were merged by Task Arithmetic", unknown);
  listed("task vectors were trimmed to zero", emptied);
  return warnings;
}

/// Throws if the output or the report would replace an input or each other.
void require_outputs_apart(const arguments& a, const std::vector<std::vector<task_file>>& inputs) {
  std::vector<std::string> paths = {a.base};
  if (!a.config.empty()) paths.push_back(a.config);
  for (const auto& files : inputs)
    for (const auto& file : files) paths.push_back(file.path);
  require_apart(a.output, paths);
  if (a.report.empty()) return;
  require_apart(a.report, paths);
  std::error_code ignored;
  if (std::filesystem::weakly_canonical(a.output, ignored) ==
      std::filesystem::weakly_canonical(a.report, ignored))
    throw error(a.report + ": the report and the output have the same name");
}

void run_merge(const CLI::App& command, const arguments& a) {
  // What the command line itself can be wrong about comes first.
  const auto experts = parse_task_files("--expert", a.experts);
  const auto feature_files = a.features.empty() ? std::vector<task_file>{}
                                                : files_of_tasks("--features", a.features, experts);
  const auto sample_files = a.samples.empty() ? std::vector<task_file>{}
                                              : files_of_tasks("--samples", a.samples, experts);
  const bool cat = a.method == "cat";
  if (cat && feature_files.empty() && sample_files.empty())
    refuse("--method cat", "features are needed: give --features or --samples for every expert");
  if (!cat)
    for (const char* option :
         {"--features", "--samples", "--sample-count", "--preset", "--rank", "--basis-energy",
          "--basis-positive", "--lambda", "--scale-rank", "--scale-lambda", "--shift-rank",
          "--rescale", "--order", "--rows", "--feature-coefficient"})
      if (command.count(option) > 0) refuse(option, "has no meaning for --method " + a.method);
  if (a.method == "average" && command.count("--alpha") > 0)
    refuse("--alpha", "has no meaning for --method average");
  if (sample_files.empty())
    for (const char* option : {"--feature-coefficient", "--sample-count"})
      if (command.count(option) > 0) refuse(option, "needs --samples");
  const cat_options options = make_options(command, a);
  double coefficient = a.preset == "port" ? a.alpha : 1;
  if (command.count("--feature-coefficient") > 0) coefficient = a.coefficient;
  const auto rules = make_rules(a);

  require_outputs_apart(a, {experts, feature_files, sample_files});
  // Made now, so that a path that cannot be written is no surprise after long work.
  std::optional<io::atomic_file> report_file;
  if (!a.report.empty()) report_file.emplace(a.report);
  checkpoint_set set(a.base, experts, rules);
  pool threads(a.threads);
  context<host> c(threads.runner());
  std::unique_ptr<harness::network> network;
  std::optional<sample_statistics> from_samples;
  std::optional<file_statistics> from_files;
  if (!sample_files.empty()) {
    network = open_network(set.base_file(), a.config);
    from_samples.emplace(*network, sample_files, a.sample_count, coefficient, set, threads);
  } else if (!feature_files.empty()) {
    from_files.emplace(feature_files, set);
  }

  checkpoint_output output(a.output, set, out_dtype(a.out_dtype));
  index_t total = 0, done = 0;
  for (const auto& group : set.groups()) total += std::ssize(group);
  progress terminal;
  const auto seen = [&](const parameter_report&) {
    terminal.show("merging parameters", ++done, total);
  };
  std::vector<parameter_report> reports;
  no_statistics nothing;
  if (a.method == "average")
    reports = merge_stream(weight_average_method{}, set, nothing, output, c, seen);
  else if (a.method == "task-arithmetic")
    reports = merge_stream(task_arithmetic_method{a.alpha}, set, nothing, output, c, seen);
  else if (from_samples)
    reports = merge_stream(cat_method{options}, set, *from_samples, output, c, seen);
  else
    reports = merge_stream(cat_method{options}, set, *from_files, output, c, seen);
  terminal.clear();

  const auto warnings = warnings_of(reports, set);
  for (const auto& warning : warnings) std::cerr << "catmerge: warning: " << warning << '\n';
  if (report_file) {
    json report;
    report["catmerge"] = {{"settings", settings(a, options, coefficient)}};
    report["tasks"] = set.tasks();
    report["warnings"] = warnings;
    report["totals"] = totals(reports, set.tasks());
    for (const auto& r : reports) report["parameters"].push_back(to_json(r, set.tasks()));
    report["copied"] = set.fixed();
    const std::string text = text_of(report);
    report_file->write_at(0, std::as_bytes(std::span(text)));
  }
  output.commit();
  if (report_file) report_file->commit();
}

}  // namespace

void add_merge(CLI::App& program) {
  auto a = std::make_shared<arguments>();
  auto* command = program.add_subcommand("merge", "Merge experts into one checkpoint");
  command->add_option("--base", a->base, "The pretrained network that all experts come from")
      ->required()
      ->type_name("P");
  command
      ->add_option("--expert", a->experts,
                   "A fine-tuned network and the name of its task; tasks trim in this order")
      ->required()
      ->type_name("NAME=P")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--output", a->output,
                   "Where the merged network goes: a file if it ends in .safetensors, else "
                   "in the format of the base")
      ->required()
      ->type_name("F");
  command->add_option("--method", a->method, "The merging method")
      ->check(CLI::IsMember({"cat", "task-arithmetic", "average"}))
      ->capture_default_str();
  command->add_option("--alpha", a->alpha, "Coefficient of the sum of task vectors")
      ->check(finite_number(true))
      ->capture_default_str();
  command
      ->add_option("--out-dtype", a->out_dtype,
                   "Type of the merged floating-point tensors; base: each its own")
      ->check(CLI::IsMember({"base", "f32", "f16", "bf16", "f64"}))
      ->capture_default_str();
  command->add_option("--threads", a->threads, "Threads; the result does not depend on it")
      ->check(CLI::Range(1U, 1024U));
  command->add_option("--report", a->report, "What the merge did to every parameter, as JSON")
      ->type_name("F.json");
  add_rule_option(*command, a->rules);

  const std::string group = "CAT Merging";
  auto* features = command
                       ->add_option("--features", a->features,
                                    "A task's statistics of layer inputs, as `catmerge "
                                    "features` writes them")
                       ->type_name("NAME=F")
                       ->expected(1)
                       ->take_all()
                       ->group(group);
  command
      ->add_option("--samples", a->samples,
                   "A task's unlabeled samples, run through its expert (CLIP vision)")
      ->type_name("NAME=F")
      ->expected(1)
      ->take_all()
      ->group(group)
      ->excludes(features);
  command
      ->add_option("--sample-count", a->sample_count,
                   "Use the first so many samples of each file (0: all)")
      ->check(whole_number())
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--config", a->config,
                   "The network's config.json, where none lies beside the base")
      ->type_name("F")
      ->group(group);
  command->add_option("--preset", a->preset, "paper, or what a port of the authors' code does")
      ->check(CLI::IsMember({"paper", "port"}))
      ->capture_default_str()
      ->group(group);
  auto* rank =
      command->add_option("--rank", a->rank, "Directions removed per task from linear weights")
          ->check(whole_number())
          ->capture_default_str()
          ->group(group);
  auto* share = command
                    ->add_option("--basis-energy", a->energy,
                                 "Instead: as many as hold this share of the squared "
                                 "positive eigenvalues")
                    ->check(finite_number(false) & CLI::Range(0.0, 1.0))
                    ->type_name("R")
                    ->excludes(rank)
                    ->group(group);
  command
      ->add_flag("--basis-positive", a->positive, "Instead: every direction of positive eigenvalue")
      ->excludes(rank)
      ->excludes(share)
      ->group(group);
  command->add_option("--lambda", a->lambda, "Weight of what a task loses itself, linear weights")
      ->check(finite_number(false))
      ->capture_default_str()
      ->group(group);
  command->add_option("--scale-rank", a->scale_rank, "Coordinates removed per task from scales")
      ->check(whole_number())
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--scale-lambda", a->scale_lambda, "Weight of what a task loses itself, scales")
      ->check(finite_number(false))
      ->capture_default_str()
      ->group(group);
  command->add_option("--shift-rank", a->shift_rank, "Coordinates removed per task from shifts")
      ->check(whole_number())
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--rescale", a->rescale,
                   "Scale trimmed vectors back to their norm, or not (default: as the preset)")
      ->check(CLI::IsMember({"none", "frobenius"}))
      ->group(group);
  command->add_option("--order", a->order, "Trim by one task after the other, or by all at once")
      ->check(CLI::IsMember({"sequential", "joint"}))
      ->capture_default_str()
      ->group(group);
  command->add_option("--rows", a->rows, "Weigh tasks by their rows in G_k, or all alike")
      ->check(CLI::IsMember({"sum", "mean"}))
      ->capture_default_str()
      ->group(group);
  command
      ->add_option("--feature-coefficient", a->coefficient,
                   "Features come from base + A (expert - base) (default: 1, "
                   "the expert; preset port: alpha)")
      ->type_name("A")
      ->check(finite_number(true))
      ->group(group);
  command->callback([command, a] { run_merge(*command, *a); });
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/merge/compose.hpp>
#include <catmerge/merge/drift.hpp>
#include <catmerge/model/networks.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <harness/checkpoints/checkpoint_output.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/features/input_statistics.hpp>
#include <harness/merge/overrides.hpp>
#include <harness/merge/request.hpp>
#include <harness/methods/running_statistics.hpp>
#include <harness/methods/spec.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/report/account.hpp>
#include <harness/report/page/merge_page.hpp>
#include <harness/report/report_files.hpp>
#include <harness/report/report_json.hpp>
#include <harness/system/progress.hpp>
#include <iostream>
#include <map>
#include <optional>

namespace catmerge::harness {

namespace {

using arguments = merge_arguments;

[[noreturn]] void refuse(const std::string& option, const std::string& why) {
  throw CLI::ValidationError(option, why);
}

/// The files of `given`: none, or one per expert and none else.
std::vector<task_file> files_of_tasks(const std::string& option,
                                      const std::vector<std::string>& given,
                                      const std::vector<task_file>& experts) {
  auto files = parse_task_files(option, given);
  if (files.empty()) return files;
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

model::name_rules make_rules(const arguments& a, const io::checkpoint& base) {
  auto rules = rules_of(base);
  if (a.preset == "port") {
    // A hook on the attention module never sees the output projection; 1-D embeddings count as
    // shifts.
    model::parameter_rule out;
    out.pattern = "*.{self_attn,attn}.out_proj.weight";
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
    o.linear.directions = energy_share{
        a.energy, a.preset == "port" ? energy_share::bound::below : energy_share::bound::reach};
  else if (a.positive)
    o.linear.directions = all_positive{};
  else
    std::get<largest>(o.linear.directions).count = a.rank;
  o.linear.lambda = a.lambda;
  o.linear.eigen.tolerance = a.tolerance;
  o.scale.coordinates.count = a.scale_rank;
  o.scale.lambda = a.scale_lambda;
  o.shift.count = a.shift_rank;
  if (given("--rescale"))
    o.linear.rescaling = o.scale.rescaling =
        a.rescale == "frobenius" ? rescale::frobenius : rescale::none;
  o.linear.order = a.order == "joint" ? trim_order::joint : trim_order::sequential;
  o.linear.weighting = a.rows == "mean" ? row_weight::mean : row_weight::sum;
  o.diagnostics = !a.reports.empty();
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

/// What a merge was asked for. alpha: the method's, if it has one; trims: those of CAT, if any.
json settings_of(const arguments& a, const std::optional<double>& alpha, const cat_options* trims,
                 double coefficient) {
  json j;
  j["method"] = a.method;
  const std::pair<const char*, const std::vector<std::string>&> patterns[] = {
      {"before", a.before},   {"method_for", a.method_for},
      {"include", a.include}, {"exclude", a.exclude},
      {"drop", a.drop},       {"task_heads", a.task_heads},
      {"resized", a.resized}, {"set", a.overrides}};
  for (const auto& [key, list] : patterns)
    if (!list.empty()) j[key] = list;
  if (!a.renames.empty()) j["rename"] = a.renames;
  if (!a.weights.empty()) j["weight"] = a.weights;
  if (a.missing != "error") j["missing"] = a.missing;
  if (a.contradictions != "error") j["contradictions"] = a.contradictions;
  if (alpha) j["alpha"] = *alpha;
  if (trims != nullptr) {
    const cat_options& o = *trims;
    j["preset"] = a.preset;
    if (const auto* t = std::get_if<largest>(&o.linear.directions)) j["rank"] = t->count;
    if (const auto* e = std::get_if<energy_share>(&o.linear.directions))
      j["basis_energy"] = e->share;
    if (std::holds_alternative<all_positive>(o.linear.directions)) j["basis"] = "all positive";
    if (o.linear.eigen.tolerance > 0) j["basis_tolerance"] = o.linear.eigen.tolerance;
    j["lambda"] = o.linear.lambda;
    j["scale_rank"] = o.scale.coordinates.count;
    j["scale_lambda"] = o.scale.lambda;
    j["shift_rank"] = o.shift.count;
    j["rescale"] = o.linear.rescaling == rescale::frobenius ? "frobenius" : "none";
    j["order"] = o.linear.order == trim_order::joint ? "joint" : "sequential";
    j["rows"] = o.linear.weighting == row_weight::mean ? "mean" : "sum";
  }
  if (!a.samples.empty()) {
    j["feature_coefficient"] = coefficient;
    j["samples"] = a.sample_count;
  }
  return j;
}

/// Throws if an output would replace an input or another output.
void require_outputs_apart(const arguments& a, const std::vector<std::vector<task_file>>& inputs) {
  std::vector<std::string> paths = {a.base};
  if (!a.config.empty()) paths.push_back(a.config);
  for (const auto& files : inputs)
    for (const auto& file : files) paths.push_back(file.path);
  std::vector<std::pair<std::string, std::string>> outputs;
  for (const auto& [what, path] : {std::pair<std::string, std::string>{"output", a.output},
                                   {"folder of heads", a.heads_output}})
    if (!path.empty() || what == "output") outputs.emplace_back(what, path);
  for (const auto& report : a.reports) outputs.emplace_back("report", report);
  for (auto one = outputs.begin(); one != outputs.end(); ++one) {
    require_apart(one->second, paths);
    for (auto other = outputs.begin(); other != one; ++other)
      if (is_within(resolved(one->second), resolved(other->second)) ||
          is_within(resolved(other->second), resolved(one->second)))
        throw error(one->second + ": the " + one->first + " and the " + other->first +
                    " have the same name, or one lies in the other: " + other->second);
  }
}

merge_policy make_policy(const arguments& a) {
  merge_policy policy;
  policy.include = {"--include", a.include};
  policy.exclude = {"--exclude", a.exclude};
  policy.drop = {"--drop", a.drop};
  policy.task_heads = {"--task-heads", a.task_heads};
  policy.resized = {"--resized", a.resized};
  policy.base_for_missing = a.missing == "base";
  policy.contradictions_pass = a.contradictions == "warn";
  for (const auto& text : a.renames) policy.renames.emplace_back(text);
  return policy;
}

/// Throws for a --rule that no tensor's name matches: it would be mistyped.
void require_rules_used(const arguments& a, const checkpoint_set& set) {
  for (const auto& text : a.rules)
    name_patterns("--rule '" + text + "'", std::vector{rule_words::parse(text).pattern})
        .require_use(set.base_file().names());
}

/// TASK=W: what each task vector is multiplied by, in the order of the experts; empty if none is
/// given.
std::vector<double> task_weights_of(const std::vector<std::string>& given,
                                    const std::vector<task_file>& experts) {
  if (given.empty()) return {};
  std::vector<double> weights(experts.size(), 1);
  for (const auto& one : parse_task_files("--weight", given)) {
    const auto expert = std::find_if(experts.begin(), experts.end(),
                                     [&](const task_file& e) { return e.task == one.task; });
    if (expert == experts.end()) refuse("--weight", "there is no --expert '" + one.task + "'");
    std::string number = one.path;
    if (const auto problem = finite_number(true)(number); !problem.empty())
      refuse("--weight", problem);
    weights[static_cast<std::size_t>(expert - experts.begin())] = std::stod(number);
  }
  return weights;
}

/// PATTERN=METHOD: another method for some parameters.
struct method_for {
  explicit method_for(const std::string& given, const cat_options& defaults) : text(given) {
    // A pattern holds no '=', the settings of a method may.
    const auto equals = given.find('=');
    if (equals == std::string::npos || equals == 0)
      refuse("--method-for", "expected PATTERN=METHOD, found '" + given + "'");
    selector.emplace("--method-for", given.substr(0, equals));
    method.emplace(parse_method(given.substr(equals + 1), defaults));
  }

  std::string text;
  std::optional<parameter_selector> selector;
  std::optional<any_method> method;
};

/// What the command line says of its own, checked as far as no file is needed.
struct merge_plan {
  merge_plan(const CLI::App& command, const arguments& a)
      : experts(parse_task_files("--expert", a.experts)),
        feature_files(files_of_tasks("--features", a.features, experts)),
        sample_files(files_of_tasks("--samples", a.samples, experts)),
        importance_files(files_of_tasks("--importance", a.importance, experts)),
        options(make_options(command, a)),
        policy(make_policy(a)),
        weights(task_weights_of(a.weights, experts)),
        method(parsed("--method", [&] { return parse_method(a.method, options); })) {
    for (const auto& text : a.before)
      before.push_back(parsed("--before", [&] { return parse_transform(text, options); }));
    for (const auto& text : a.method_for)
      others.push_back(parsed("--method-for", [&] { return method_for(text, options); }));
    for (const auto& text : a.overrides) overrides.emplace_back(text);
    policy.pieces = !any_of_methods([](const any_method& m) { return m.sees_matrices(); });
    if (double* const alpha = method.find_alpha(); command.count("--alpha") > 0) {
      if (alpha == nullptr) refuse("--alpha", "has no meaning for --method " + a.method);
      *alpha = a.alpha;
    }
    check_method(command, a);
    if (a.task_heads.empty() != a.heads_output.empty())
      refuse("--task-heads", "goes with --heads-output, where these tensors are written to");
    if (command.count("--feature-coefficient") > 0)
      coefficient = a.coefficient;
    else if (a.preset == "port")
      coefficient = method.find_alpha() != nullptr ? *method.find_alpha() : a.alpha;
    output.type = out_dtype(a.out_dtype);
    output.most_in_shard = parse_size("--max-shard-size", a.max_shard_size);
    output.behind = a.threads > 1;
    if (a.overwrite) output.target = io::existing::replace;
  }

  /// The method as it runs on `set`, which outlives it: transforms before it, other settings and
  /// other methods for some parameters.
  any_method composed(const checkpoint_set& set) const {
    any_method all = with_own_settings(method, set);
    for (const auto& other : others)
      all = any_method(where{[selector = *other.selector, &set](const host_problem& p) {
                               return selector.applies(set, p.names.parameter, p.kind);
                             },
                             with_own_settings(*other.method, set), std::move(all)});
    if (!before.empty()) {
      // Once, around all methods: what looks at the whole model looks at all of it.
      for (auto t = before.rbegin(); t != before.rend(); ++t) all = any_method(chain{*t, all});
      all = with_own_settings(std::move(all), set);
    }
    if (!weights.empty()) all = any_method(chain{task_weights{weights}, std::move(all)});
    return with_running_statistics(std::move(all), set);
  }

  std::vector<task_file> experts, feature_files, sample_files, importance_files;
  cat_options options;
  merge_policy policy;
  std::vector<double> weights;  ///< of the task vectors; empty if none is given
  any_method method;
  std::vector<any_transform> before;
  std::vector<method_for> others;
  std::vector<override_rule> overrides;
  double coefficient = 1;
  output_options output;

 private:
  /// What `make` makes; its errors are the option's.
  template <class Make>
  static auto parsed(const char* option, const Make& make) -> decltype(make()) {
    try {
      return make();
    } catch (const error& problem) {
      throw CLI::ValidationError(option, problem.what());
    }
  }

  any_method with_own_settings(any_method one, const checkpoint_set& set) const {
    if (overrides.empty()) return one;
    return any_method(with_overrides(std::move(one), overrides, set));
  }

  template <class Is>
  bool any_of_methods(const Is& is) const {
    return is(method) ||
           std::any_of(others.begin(), others.end(), [&](const auto& o) { return is(*o.method); });
  }

  void check_method(const CLI::App& command, const arguments& a) {
    const auto statistics = [](const auto& m) {
      return m.needs_statistics(layer_kind::linear) || m.needs_statistics(layer_kind::scale);
    };
    const auto importance = [](const auto& m) { return m.needs_importance(); };
    const bool given = !feature_files.empty() || !sample_files.empty();
    const auto any_needs = [&](const auto& needs) {
      return any_of_methods(needs) || std::any_of(before.begin(), before.end(), needs);
    };
    const bool needed = any_needs(statistics);
    if (needed && !given)
      refuse("--method " + a.method,
             "features are needed: give --features or --samples for every expert");
    // For a report they are welcome whatever the method: they tell how far outputs have moved.
    const bool useless = given && !needed && a.reports.empty();
    for (const char* option : {"--features", "--samples"})
      if (useless && command.count(option) > 0)
        refuse(option, "has no meaning for --method " + a.method + " without a --report");
    if (!importance_files.empty() && !any_needs(importance))
      refuse("--importance", "has no meaning for --method " + a.method);
    if (importance_files.empty() && any_needs(importance))
      refuse("--method " + a.method, "--importance is needed for every expert");
    bool trims = method.find_trims() != nullptr, alphas = method.find_alpha() != nullptr;
    for (auto& o : others) {
      trims = trims || o.method->find_trims() != nullptr;
      alphas = alphas || o.method->find_alpha() != nullptr;
    }
    for (auto& t : before) trims = trims || t.find_trims() != nullptr;
    for (const char* option : {"--preset", "--rank", "--basis-energy", "--basis-positive",
                               "--basis-tolerance", "--lambda", "--scale-rank", "--scale-lambda",
                               "--shift-rank", "--rescale", "--order", "--rows"})
      if (!trims && command.count(option) > 0)
        refuse(option, "has no meaning for --method " + a.method);
    for (const auto& rule : overrides)
      if ((!trims && rule.has_trim()) || (!alphas && rule.has_alpha()))
        refuse("--set", "'" + rule.text() + "' has no meaning for --method " + a.method);
    const bool scans = any_needs([](const auto& m) { return m.scan_wanted(); });
    for (const auto& rule : overrides)
      if (scans && rule.has_trim())
        refuse("--set", "'" + rule.text() +
                            "': a method or transform that looks at the whole model before it "
                            "merges needs one lambda and rank for all");
    if (sample_files.empty())
      for (const char* option : {"--feature-coefficient", "--sample-count"})
        if (command.count(option) > 0) refuse(option, "needs --samples");
  }
};

/// Pieces of one table as one: they are never trimmed, so their reports say the same but for sizes,
/// which add up. Members of a stack stay apart.
std::vector<parameter_report> whole_tensors(std::vector<parameter_report> reports,
                                            const checkpoint_set& set) {
  const auto add = [](double& norm, double more) { norm = std::hypot(norm, more); };
  std::vector<parameter_report> whole;
  for (auto& report : reports) {
    const std::string& tensor = set.tensor_of(report.name);
    if (!comes_apart(set.class_of(tensor))) report.name = tensor;
    if (whole.empty() || whole.back().name != report.name) {
      whole.push_back(std::move(report));
      continue;
    }
    add(whole.back().sizes.of_base, report.sizes.of_base);
    for (std::size_t k = 0; k < report.sizes.of_vectors.size(); ++k)
      add(whole.back().sizes.of_vectors[k], report.sizes.of_vectors[k]);
  }
  return whole;
}

/// The progress of merge_stream: of scans of the whole model, and of the merge.
class merge_progress {
 public:
  merge_progress(verbosity how, index_t total)
      : state_(std::make_shared<state>(how)), total_(total) {}

  void scanned(const parameter_info&) const {
    if (state_->done == total_) {
      state_->done = 0;
      ++state_->pass;
    }
    state_->terminal.show("looking at the whole model, pass " + std::to_string(state_->pass),
                          ++state_->done, total_);
  }
  void operator()(const parameter_report&) const {
    if (!state_->merging) state_->done = 0;
    state_->merging = true;
    state_->terminal.show("merging parameters", ++state_->done, total_);
  }
  void clear() const { state_->terminal.clear(); }

 private:
  struct state {
    explicit state(verbosity how) : terminal(how) {}
    progress terminal;
    index_t done = 0, pass = 1;
    bool merging = false;
  };
  std::shared_ptr<state> state_;
  index_t total_;
};

}  // namespace

void run_merge(const CLI::App& command, const merge_arguments& a) {
  // What the command line itself can be wrong about comes first.
  const merge_plan plan(command, a);
  require_outputs_apart(
      a, {plan.experts, plan.feature_files, plan.sample_files, plan.importance_files});
  const auto began = std::chrono::steady_clock::now();
  report_files reports_out("--report", a.reports, plan.output.target);
  io::checkpoint base(a.base);
  const auto rules = make_rules(a, base);
  checkpoint_set set(std::move(base), plan.experts, rules, plan.policy);
  require_rules_used(a, set);
  for (const auto& rule : plan.overrides) rule.require_use(set);
  for (const auto& other : plan.others)
    other.selector->require_use(set, "--method-for '" + other.text + "'");
  if (command.count("--max-shard-size") > 0 &&
      io::output_format(a.output, set.base_file().format()) !=
          io::checkpoint_format::hugging_face_folder)
    refuse("--max-shard-size", "is for Hugging Face folders, which " + a.output + " will not be");
  pool threads(a.threads);
  context<host> c(threads.runner());
  std::unique_ptr<harness::network> network;
  std::unique_ptr<merge_statistics> statistics = std::make_unique<without_statistics>();
  if (!plan.sample_files.empty()) {
    network = open_network(set.base_file(), a.config);
    statistics = std::make_unique<sample_statistics>(*network, plan.sample_files, a.sample_count,
                                                     plan.coefficient, set, threads);
  } else if (!plan.feature_files.empty()) {
    statistics = std::make_unique<file_statistics>(plan.feature_files, set);
  }

  checkpoint_output output(a.output, set, plan.output);
  std::optional<task_heads_output> heads;
  if (!a.heads_output.empty()) heads.emplace(a.heads_output, set, plan.output.target);
  index_t total = 0;
  for (const auto& group : set.groups()) total += std::ssize(group);
  const auto how = verbosity_of(a.quiet, a.verbose);
  merge_progress seen(how, total);
  merge_knowledge knowledge(*statistics, plan.importance_files, set);
  const any_method method = plan.composed(set);
  std::vector<parameter_report> reports;
  try {
    reports = a.reports.empty() ? merge_stream(method, set, knowledge, output, c, seen)
                                : merge_stream(with_drift{method}, set, knowledge, output, c, seen);
  } catch (const not_finite_error& problem) {
    throw error(std::string(problem.what()) +
                " (--exclude NAME, or --rule 'NAME=fixed', keeps the base's bytes)");
  }
  output.finish();
  require_change(reports, a.method);
  reports = whole_tensors(std::move(reports), set);
  seen.clear();

  const bool uses_features = method.needs_statistics(layer_kind::linear);
  auto warnings = warnings_of(reports, set, uses_features);
  for (auto& sentence : knowledge.unused()) warnings.push_back(std::move(sentence));
  if (how != verbosity::quiet)
    for (const auto& warning : warnings) std::cerr << "catmerge: warning: " << warning << '\n';
  if (!a.reports.empty()) {
    any_method main = plan.method;
    std::vector<any_transform> before = plan.before;
    cat_options* trims = main.find_trims();
    for (auto& t : before)
      if (trims == nullptr) trims = t.find_trims();
    const double* const alpha = main.find_alpha();
    json report;
    report["catmerge"] = {
        {"version", version_text},
        {"settings", settings_of(a, alpha != nullptr ? std::optional(*alpha) : std::nullopt, trims,
                                 plan.coefficient)}};
    report["run"] = run_of(began, a.threads);
    report["tasks"] = set.tasks();
    report["summary"] = summary_of(reports, set, uses_features);
    report["warnings"] = warnings;
    report["totals"] = totals(reports, set.tasks());
    const auto sizes = sizes_of(reports, set.tasks().size());
    report["totals"]["task_vectors"] = {
        {"norm", sizes.norms}, {"of_base", sizes.base}, {"relative", sizes.relative}};
    for (const auto& r : reports) {
      json j = to_json(r, set.tasks());
      j["merged_by"] = rule_of(r, set);
      if (const auto why = reason_of(r, set, uses_features); !why.empty()) j["because"] = why;
      report["parameters"].push_back(std::move(j));
    }
    report["copied"] = set.fixed();
    for (const auto& name : set.fixed()) report["copied_because"][name] = set.why_copied(name);
    if (!set.ignored().empty()) report["not_in_base"] = set.ignored();
    if (!set.tied().empty()) report["tied"] = set.tied();
    reports_out.write(report, merge_page);
  }
  output.commit();
  if (heads) heads->commit();
  reports_out.commit();
  if (how != verbosity::quiet) std::cout << summary_of(reports, set, uses_features) << '\n';
}

}  // namespace catmerge::harness

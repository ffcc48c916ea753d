// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/merge/compose.hpp>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/merge/plan.hpp>
#include <harness/methods/cat_settings.hpp>
#include <harness/methods/running_statistics.hpp>
#include <harness/methods/token_tables.hpp>
#include <harness/system/option_error.hpp>
#include <harness/system/paths.hpp>
#include <utility>

namespace catmerge::harness {

namespace {

bool has_task(const std::vector<task_file>& files, const std::string& task) {
  return std::any_of(files.begin(), files.end(), [&](const auto& f) { return f.task == task; });
}

/// Throws unless there are no files, or one per expert.
void require_one_per_expert(const std::string& option, const std::vector<task_file>& files,
                            const std::vector<task_file>& experts) {
  if (files.empty()) return;
  for (const auto& file : files)
    if (!has_task(experts, file.task))
      throw option_error(option, "there is no --expert '" + file.task + "'");
  for (const auto& expert : experts)
    if (!has_task(files, expert.task))
      throw option_error(option, "the expert '" + expert.task + "' has none");
}

/// The factor of each task vector, in the order of the experts; empty if none is given.
std::vector<double> weights_of(const merge_request& request) {
  if (request.weights.empty()) return {};
  std::vector<double> weights(request.experts.size(), 1);
  for (const auto& one : request.weights) {
    const auto expert = std::find_if(request.experts.begin(), request.experts.end(),
                                     [&](const task_file& e) { return e.task == one.task; });
    if (expert == request.experts.end())
      throw option_error("--weight", "there is no --expert '" + one.task + "'");
    weights[static_cast<std::size_t>(expert - request.experts.begin())] = one.weight;
  }
  return weights;
}

merge_policy policy_of(const merge_request& request) {
  merge_policy policy;
  policy.include = {"--include", request.include};
  policy.exclude = {"--exclude", request.exclude};
  policy.drop = {"--drop", request.drop};
  policy.task_heads = {"--task-heads", request.task_heads};
  policy.resized = {"--resized", request.resized};
  policy.base_for_missing = request.base_for_missing;
  policy.contradictions_pass = request.contradictions_pass;
  for (const auto& text : request.rename) policy.renames.emplace_back(text);
  return policy;
}

cat_options cat_of(const merge_request& request) {
  cat_options o = cat_options::paper();
  if (!request.preset.empty()) o = blaming("--preset", [&] { return cat_preset(request.preset); });
  auto decided = request.cat;
  std::erase_if(decided, [](const auto& one) { return one.second == "auto"; });
  settings given(decided);
  read_cat(given, o);
  given.require_all_known();
  o.alpha = request.alpha.value_or(o.alpha);
  o.diagnostics = !request.reports.empty();
  validate(o);
  return o;
}

/// The method, with the settings of CAT that are left to outputs: "cat:lambda=auto".
std::string method_text(const merge_request& request) {
  std::string text = request.method;
  for (const auto& [key, value] : request.cat) {
    if (value != "auto") continue;
    if (name_in_spec(text) != "cat")
      throw option_error("--" + key,
                         "outputs choose settings of --method cat alone, not of " + request.method);
    text = with_settings(text, key + "=auto");
  }
  return text;
}

bool is_port(const merge_request& request) {
  return request.preset == "port";
}

/// The given options of CAT.
std::vector<std::string> options_of_cat(const merge_request& request) {
  std::vector<std::string> options;
  if (!request.preset.empty()) options.emplace_back("--preset");
  for (const auto& [key, value] : request.cat) options.push_back("--" + key);
  return options;
}

output_options output_of(const merge_request& request) {
  constexpr std::uint64_t most_in_shard = 5'000'000'000;  // as transformers writes them
  output_options o;
  o.type = request.out_dtype;
  o.most_in_shard = request.max_shard_size.value_or(most_in_shard);
  o.behind = request.threads > 1;
  if (request.overwrite) o.target = io::existing::replace;
  return o;
}

/// True for CAT with the preset auto and no alpha. given: the settings of the method.
bool leaves_alpha_to_outputs(const merge_request& request, const settings& given) {
  if (request.alpha || name_in_spec(request.method) != "cat") return false;
  bool is_auto = request.preset == "auto";
  for (const auto& [key, value] : given.given()) {
    if (key == "alpha") return false;
    if (key == "preset") is_auto = value == "auto";
  }
  return is_auto;
}

/// The value of a setting; empty if it is not given.
std::string given_value(const settings& given, const std::string& key) {
  for (const auto& [known, value] : given.given())
    if (known == key) return value;
  return {};
}

bool needs_statistics(const auto& m) {
  return m.needs_statistics(layer_kind::linear) || m.needs_statistics(layer_kind::scale);
}

}  // namespace

merge_plan::merge_plan(const merge_request& request)
    : cat(cat_of(request)),
      policy(policy_of(request)),
      weights(weights_of(request)),
      candidates(blaming("--method", [&] { return texts_to_try(method_text(request)); })),
      method(blaming("--method", [&] { return parse_method(candidates.front(), cat); })),
      output(output_of(request)) {
  find_outputs(request);
  read_methods(request);
  find_inputs(request);
  note_useless_settings(request);
  check_overrides(request);
  if (request.task_heads.empty() != request.heads_output.empty())
    throw option_error("--task-heads",
                       "goes with --heads-output, where these tensors are written to");
}

/// The settings that are chosen by outputs on samples.
void merge_plan::find_outputs(const merge_request& request) {
  require_one_per_expert("--head", request.heads, request.experts);
  is_automatic = name_in_spec(request.method) == "auto";
  settings given = blaming("--method", [&] { return settings_in(request.method); });
  const std::string own_alpha = given_value(given, "alpha");
  const bool chooses_settings = candidates.size() > 1;
  const bool alpha_is_open = !request.alpha && own_alpha.empty() && method.find_alpha() != nullptr;
  demands_outputs = request.alpha_by_outputs || own_alpha == "auto" || chooses_settings;
  alpha_by_outputs = request.alpha_by_outputs || (own_alpha == "auto" && !request.alpha) ||
                     (chooses_settings && alpha_is_open) || leaves_alpha_to_outputs(request, given);
  const std::string draws = given_value(given, "resamples");
  measures_bases = !draws.empty() && draws != "0";
  uses_outputs = (is_automatic || alpha_by_outputs || demands_outputs) && !request.samples.empty();
  if (is_automatic) read_automatic(given, automatic);
  if (is_automatic && automatic.refit && !request.features.empty())
    method = automatic_from_features(automatic);
  if (!request.heads.empty() && !uses_outputs)
    notes.emplace_back(
        "--head: has no meaning without --samples, for --method auto or --alpha auto");
  if (demands_outputs && request.samples.empty())
    throw option_error(request.alpha_by_outputs ? "--alpha" : "--method",
                       "auto needs --samples and, for their outputs, --head");
  const std::string rule = is_automatic
                               ? "--method auto merges all parameters by one rule"
                               : "outputs choose the settings of one method, for all parameters";
  for (const auto& [option, list] : {std::pair{"--method-for", &request.method_for},
                                     {"--set", &request.set},
                                     {"--after", &request.after}})
    if (uses_outputs && !list->empty()) throw option_error(option, rule);
  if (uses_outputs && is_automatic)
    for (const auto& [option, is_given] :
         {std::pair{"--before", !request.before.empty()}, {"--weight", !request.weights.empty()}})
      if (is_given) throw option_error(option, "does not go with --method auto and --samples");
}

void merge_plan::read_methods(const merge_request& request) {
  for (const auto& text : request.before)
    before.push_back(blaming("--before", [&] { return parse_transform(text, cat); }));
  for (const auto& text : request.after)
    after.push_back(blaming("--after", [&] { return parse_merged_transform(text); }));
  for (const auto& text : request.method_for)
    others.push_back(blaming("--method-for", [&] { return method_rule(text, cat); }));
  for (const auto& text : request.set) overrides.emplace_back(text);
  double* const alpha = method.find_alpha();
  if (alpha != nullptr) *alpha = request.alpha.value_or(*alpha);
  if (alpha_by_outputs && alpha == nullptr)
    throw option_error("--alpha", "--method " + request.method + " has no alpha");
  policy.pieces = pieces();
  coefficient = is_port(request) ? (alpha != nullptr ? *alpha : cat.alpha) : 1;
  coefficient = request.feature_coefficient.value_or(coefficient);
}

void merge_plan::find_inputs(const merge_request& request) {
  require_one_per_expert("--features", request.features, request.experts);
  require_one_per_expert("--samples", request.samples, request.experts);
  require_one_per_expert("--importance", request.importance, request.experts);
  if (!request.features.empty() && !request.samples.empty())
    throw option_error("--samples", "excludes --features");
  const std::string option = "--method " + request.method;
  const bool given = !request.features.empty() || !request.samples.empty();
  const bool needed = any_is([](const auto& m) { return needs_statistics(m); });
  uses_importance = any_is([](const auto& m) { return m.needs_importance(); });
  if (needed && !given)
    throw option_error(option,
                       "features are needed: give --features or --samples for every expert");
  if (uses_importance && request.importance.empty())
    throw option_error(option, "--importance is needed for every expert");
  uses_statistics = given && (needed || !request.reports.empty());
  for (const auto& [name, value] :
       {std::pair{"--feature-coefficient", request.feature_coefficient.has_value()},
        {"--sample-count", request.sample_count.has_value()}})
    if (value && request.samples.empty()) throw option_error(name, "needs --samples");

  const std::string meaningless = ": has no meaning for " + option;
  for (const auto& [name, files] :
       {std::pair{"--features", &request.features}, {"--samples", &request.samples}})
    if (!files->empty() && !uses_statistics && !uses_outputs)
      notes.push_back(name + meaningless + " without a --report");
  if (!request.importance.empty() && !uses_importance)
    notes.push_back("--importance" + meaningless);
}

void merge_plan::note_useless_settings(const merge_request& request) {
  const std::string meaningless = ": has no meaning for --method " + request.method;
  if (request.alpha && method.find_alpha() == nullptr) notes.push_back("--alpha" + meaningless);
  if (!any_is([](auto m) { return m.find_trims() != nullptr; }))
    for (const auto& option : options_of_cat(request)) notes.push_back(option + meaningless);
}

void merge_plan::check_overrides(const merge_request& request) {
  const bool trims = any_is([](auto m) { return m.find_trims() != nullptr; });
  const bool alphas = any_method_is([](auto m) { return m.find_alpha() != nullptr; });
  const bool scans = any_is([](const auto& m) { return m.scan_wanted(); });
  for (const auto& rule : overrides) {
    if ((!trims && rule.has_trim()) || (!alphas && rule.has_alpha()))
      notes.push_back("--set: '" + rule.text() + "' has no meaning for --method " + request.method);
    if (trims && scans && rule.has_trim())
      throw option_error("--set",
                         "'" + rule.text() +
                             "': a method or transform that looks at the whole model before it "
                             "merges needs the same trims for all");
  }
}

template <class Is>
bool merge_plan::any_method_is(const Is& is) const {
  return is(method) || std::any_of(others.begin(), others.end(),
                                   [&](const auto& other) { return is(other.method()); });
}

template <class Is>
bool merge_plan::any_is(const Is& is) const {
  return any_method_is(is) || std::any_of(before.begin(), before.end(), is) ||
         std::any_of(after.begin(), after.end(), is);
}

tables_in_pieces merge_plan::pieces() const {
  const auto whole = [](const auto& m) { return m.needs_whole_tables(); };
  if (!any_is(whole)) return tables_in_pieces::all;
  // Methods that merge tables as matrices get no tables of tokens.
  const bool tokens_whole =
      std::any_of(before.begin(), before.end(), whole) ||
      any_method_is([&](const auto& m) { return whole(m) && !m.sees_matrices(); });
  return tokens_whole ? tables_in_pieces::none : tables_in_pieces::tokens;
}

any_method merge_plan::with_own_settings(any_method one, const network_names& set) const {
  if (overrides.empty()) return one;
  return any_method(with_overrides(std::move(one), overrides, set));
}

any_method merge_plan::composed(const network_names& set) const {
  return composed(set, method);
}

any_method merge_plan::composed(const network_names& set, const any_method& main) const {
  any_method all = with_token_tables(with_own_settings(main, set), set);
  for (const auto& other : others)
    all = any_method(where{[selector = other.selector(), &set](const host_problem& p) {
                             return selector.applies(set, p.names.parameter, p.kind);
                           },
                           with_token_tables(with_own_settings(other.method(), set), set),
                           std::move(all)});
  for (any_merged_transform transform : after) {
    transform.read_names(set.names());
    all = with_token_tables(any_method(then{std::move(all), std::move(transform)}), set);
  }
  if (!before.empty()) {
    // Once, around all methods, so that a scan of the whole model sees all of it.
    for (auto t = before.rbegin(); t != before.rend(); ++t) all = any_method(chain{*t, all});
    all = with_own_settings(std::move(all), set);
  }
  if (!weights.empty()) all = any_method(chain{task_weights{weights}, std::move(all)});
  return with_running_statistics(std::move(all), set);
}

void require_outputs_apart(const merge_request& request) {
  std::vector<std::string> inputs = {request.base};
  if (!request.config.empty()) inputs.push_back(request.config);
  for (const auto* files :
       {&request.experts, &request.features, &request.samples, &request.heads, &request.importance})
    for (const auto& file : *files) inputs.push_back(file.path);
  std::vector<std::pair<std::string, std::string>> outputs = {{"output", request.output}};
  if (!request.heads_output.empty()) outputs.emplace_back("folder of heads", request.heads_output);
  for (const auto& report : request.reports) outputs.emplace_back("report", report);
  for (auto one = outputs.begin(); one != outputs.end(); ++one) {
    require_apart(one->second, inputs);
    for (auto other = outputs.begin(); other != one; ++other)
      if (is_within(resolved(one->second), resolved(other->second)) ||
          is_within(resolved(other->second), resolved(one->second)))
        throw error(one->second + ": the " + one->first + " and the " + other->first +
                    " have the same name, or one lies in the other: " + other->second);
  }
}

model::name_rules rules_for(const merge_request& request, const io::checkpoint& base) {
  auto rules = rules_of(base);
  if (is_port(request)) {
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
  add_rules(request.rules, rules);
  return rules;
}

void require_all_used(const merge_request& request, const merge_plan& plan,
                      const checkpoint_set& set) {
  for (const auto& text : request.rules)
    name_patterns("--rule '" + text + "'", std::vector{rule_words::parse(text).pattern})
        .require_use(set.base_file().names());
  for (const auto& rule : plan.overrides) rule.require_use(set);
  for (const auto& other : plan.others) other.require_use(set);
  if (request.max_shard_size && io::output_format(request.output, set.base_file().format()) !=
                                    io::checkpoint_format::hugging_face_folder)
    throw option_error("--max-shard-size",
                       "is for Hugging Face folders, which " + request.output + " will not be");
}

}  // namespace catmerge::harness

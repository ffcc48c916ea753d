// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <cctype>
#include <harness/commands/command_line.hpp>
#include <harness/commands/commands.hpp>
#include <harness/merge/run_merge.hpp>
#include <harness/methods/cat_settings.hpp>
#include <harness/methods/catalogue.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace catmerge::harness {

namespace {

/// Options as words of the command line, before read() converts them for the request.
struct merge_words {
  std::vector<std::string> experts, features, samples, importance, weights;
  std::vector<std::string> heads;
  std::optional<std::string> max_shard_size, alpha;
};

/// An option that takes one of a few words, each with its value. shown: the default in --help.
template <class Value, class Field>
CLI::Option* add_choice(CLI::App& command, const char* name, Field& field,
                        const std::vector<std::pair<std::string, Value>>& choices,
                        const std::string& shown, const char* help) {
  std::vector<std::string> words;
  for (const auto& [word, value] : choices) words.push_back(word);
  const auto take = [&field, choices](const std::string& given) {
    for (const auto& [word, value] : choices)
      if (word == given) field = value;
  };
  return command.add_option_function<std::string>(name, take, help)
      ->check(CLI::IsMember(words))
      ->default_str(shown);
}

/// The group of options on names.
const char* const names_group =
    "Choice of tensors (PATTERN: *, ? and {a,b} in whole names; each option may be given several "
    "times)";

/// The group of options on samples and features.
const char* const samples_group = "Unlabeled samples, or features of layers";

/// The group of options on adapters.
const char* const adapters_group = "Adapters (every expert is a LoRA adapter's folder, of PEFT)";

/// The group of options on CAT's trims.
const char* const cat_group = "CAT Merging";

/// "cat, dare or tatr".
std::string names_of(const auto& entries) {
  std::vector<std::string> names;
  for (const auto& entry : entries) names.push_back(entry.name);
  return listed(names);
}

/// "0.4 for cat".
std::string default_alpha(const std::string& method) {
  any_method m = parse_method(method);
  return shortest(*m.find_alpha()) + " for " + method;
}

/// "squared gradients (fisher), mean absolute gradients (tatr)".
std::string importances() {
  std::string text;
  for (const auto& m : all_methods())
    if (m.importance != importance_kind::none)
      text += (text.empty() ? "" : ", ") + words_of(m.importance) + " (" + m.name + ")";
  return text;
}

void add_method(CLI::App& command, merge_request& request, merge_words& words) {
  command
      .add_option("--method", request.method,
                  "The merging method, with settings if need be: ties:density=0.1 (`catmerge "
                  "methods` lists them). A setting that is auto is chosen by outputs, as --alpha "
                  "auto. The method auto needs no settings: --samples and --head decide everything")
      ->type_name("METHOD")
      ->capture_default_str();
  add_list(command, "--before", request.before, "TRANSFORM",
           "A change of the task vectors before the method: " + names_of(all_transforms()) +
               ", with settings; several are applied in this order");
  add_list(command, "--after", request.after, "TRANSFORM",
           "A change of what the method merged, its alpha included: " +
               names_of(all_merged_transforms()) +
               ", with settings; several are applied in this order");
  add_list(command, "--method-for", request.method_for, "PATTERN=METHOD",
           "Another method for some parameters: names, or @linear, @scale, @shift, @other; "
           "the last that applies counts. A method that looks at the whole model looks at its "
           "own parameters only");
  command
      .add_option("--alpha", words.alpha,
                  "Coefficient of the merged task vector (default: " + default_alpha("cat") + ", " +
                      default_alpha("task-arithmetic") +
                      ", `catmerge methods` has the others'); auto: the one whose outputs are "
                      "closest to the experts' own on the --samples")
      ->type_name("A|auto");
  add_list(command, "--weight", words.weights, "TASK=W",
           "The factor of an expert's task vector, applied before anything else, in every method "
           "(default: 1)");
}

void add_outputs(CLI::App& command, merge_request& request, merge_words& words) {
  add_choice<std::optional<io::dtype>>(
      command, "--out-dtype", request.out_dtype,
      {{"base", std::nullopt},
       {"f32", io::dtype::f32},
       {"f16", io::dtype::f16},
       {"bf16", io::dtype::bf16},
       {"f64", io::dtype::f64}},
      "base", "Type of the merged floating-point tensors; base: each its own");
  command
      .add_option("--max-shard-size", words.max_shard_size,
                  "Largest file of an output that is a Hugging Face folder: bytes, or with KB, MB, "
                  "GB (powers of 1000), KiB, MiB, GiB; 0: one file")
      ->type_name("SIZE")
      ->default_str("5GB");
  command.add_flag(
      "--overwrite", request.overwrite,
      "Replace outputs that exist, once the new ones are finished. A folder goes as a whole; it is "
      "refused if it holds a file, other than weights, that the new one does not");
  add_threads(command, request.threads,
              "Threads that compute (with more than one, another writes); the result does not "
              "depend on it");
  add_list(command, "--report", request.reports, "F.html|F.json",
           "A report on every parameter: a page to look at, or all numbers as JSON, by the file's "
           "name; may be given for both");
}

/// base: the option --base, which is required without --adapter.
void add_adapters(CLI::App& command, merge_request& request, CLI::Option* base) {
  command
      .add_flag_callback(
          "--adapter",
          [&request, base] {
            request.adapter = true;
            base->required(false);
          },
          "Merge the adapters into an adapter, a folder that PEFT opens, exactly and in their "
          "factors. --method: task-arithmetic, average, cat, lot, tsv-m, or core-iso: Iso-C "
          "over the directions that the adapters span. --base is not needed; given, it "
          "checks the adapters' names and shapes")
      ->group(adapters_group);
  command
      .add_option("--adapter-rank", request.adapter_rank,
                  "The largest rank of the merged adapter: the nearest factors for each weight, "
                  "with the error in the report (default: the sum of the ranks, without error)")
      ->type_name("R")
      ->check(whole_number())
      ->group(adapters_group);
}

void add_names(CLI::App& command, merge_request& request) {
  const auto patterns = [&](const char* option, std::vector<std::string>& list, const char* help) {
    add_list(command, option, list, "PATTERN", help)->group(names_group);
  };
  patterns("--include", request.include,
           "Merge these only; all others are the base's, bit for bit");
  patterns("--exclude", request.exclude, "Do not merge these: they are the base's, bit for bit");
  patterns("--drop", request.drop, "Leave these out: neither compared nor written");
  patterns("--task-heads", request.task_heads,
           "These are each task's own: not merged, written to --heads-output");
  command
      .add_option("--heads-output", request.heads_output,
                  "The folder for the tensors of --task-heads, TASK.safetensors each")
      ->type_name("D")
      ->group(names_group);
  patterns("--resized", request.resized,
           "Tables that some experts have with more or fewer rows: the rows in common are merged, "
           "the result has the base's");
  add_choice<bool>(command, "--missing", request.base_for_missing,
                   {{"error", false}, {"base", true}}, "error",
                   "A tensor that an expert lacks is an error, or the base's takes its place")
      ->group(names_group);
  add_list(command, "--rename", request.rename, "EXPERT:FROM=TO",
           "Renames tensors of an expert (of all experts without EXPERT:) as in the base; one * on "
           "each side stands for the same text: 'cars:bert.*=*', '*.gamma=*.weight'. Several apply "
           "one after the other; a name that the base has stays")
      ->group(names_group);
  add_choice<bool>(command, "--contradictions", request.contradictions_pass,
                   {{"error", false}, {"warn", true}}, "error",
                   "An expert whose configuration or tokens contradict the base's is an error, or "
                   "is merged with a warning")
      ->group(names_group);
  add_list(
      command, "--set", request.set, "PATTERN:KEY=VALUE,...",
      "Other settings for some parameters: names, or @linear, @scale, @shift, @other; KEY: "
      "alpha and, where the method trims, the settings of CAT below, where lambda and rank are "
      "those of the parameter's kind; the last that applies counts")
      ->group(names_group);
}

void add_inputs(CLI::App& command, merge_request& request, merge_words& words) {
  add_list(command, "--importance", words.importance, "NAME=P",
           "The importance of each entry for a task, in tensors named and shaped like the "
           "parameters: " +
               importances());
  auto* const features = add_list(command, "--features", words.features, "NAME=F",
                                  "A task's statistics of layer inputs, as `catmerge "
                                  "features` writes them")
                             ->group(samples_group);
  add_list(command, "--samples", words.samples, "NAME=F",
           "A task's unlabeled samples, run through its expert (CLIP vision, BERT, "
           "RoBERTa, a decoder, BLIP, convnet)")
      ->group(samples_group)
      ->excludes(features);
  add_list(command, "--head", words.heads, "NAME=H",
           "A task's last layers, from the network's output to its classes, as `evaluate` takes "
           "them: samples then choose alphas by outputs. Default: the heads in the experts, if "
           "all have one")
      ->group(samples_group);
  command
      .add_option("--sample-count", request.sample_count,
                  "Use the first so many samples of each file (0: all, of which at most 64 choose "
                  "settings)")
      ->check(whole_number())
      ->default_str("0")
      ->group(samples_group);
  command
      .add_option("--config", request.config,
                  "The network's config.json, if none lies beside the base")
      ->type_name("F")
      ->group(samples_group);
}

/// The name of a setting's type in --help.
std::string type_of(const settings::known& s) {
  if (s.type == settings::form::number) return "NUMBER";
  if (s.type == settings::form::count) return "COUNT";
  if (s.type == settings::form::text) return "TEXT";
  std::string all;
  for (const auto& word : s.words) all += (all.empty() ? "" : "|") + word;
  return all;
}

/// The settings of CAT's trims: an option each.
void add_cat(CLI::App& command, merge_request& request) {
  std::string presets;
  for (const auto& [name, options] : cat_presets()) presets += (presets.empty() ? "" : "|") + name;
  command
      .add_option(
          "--preset", request.preset,
          "Defaults of the settings below: the paper's, as shown; those of a port of the authors' "
          "code; or lambda 1 with half of the energy, which need no choice (alpha is then auto)")
      ->type_name(presets)
      ->default_str(cat_presets().front().first)
      ->group(cat_group);
  for (const auto& setting : cat_settings()) {
    const std::string option = "--" + setting.key;
    std::string help = setting.help;
    help.front() = static_cast<char>(std::toupper(help.front()));
    const auto take = [&request, key = setting.key](const std::string& value) {
      request.cat[key] = value;
    };
    if (setting.type == settings::form::flag)
      command
          .add_flag_callback(
              option, [take] { take("yes"); }, help)
          ->group(cat_group);
    else
      command.add_option_function<std::string>(option, take, help)
          ->type_name(type_of(setting))
          ->default_str(setting.value)
          ->group(cat_group);
  }
}

std::vector<task_weight> parse_weights(const std::vector<std::string>& arguments) {
  std::vector<task_weight> weights;
  for (auto& [task, number] : parse_task_files("--weight", arguments)) {
    if (const auto problem = finite_number(true)(number); !problem.empty())
      throw CLI::ValidationError("--weight", problem);
    weights.push_back({task, std::stod(number)});
  }
  return weights;
}

/// Throws CLI::ValidationError for words of another form.
void read(const merge_words& words, merge_request& request) {
  request.experts = parse_task_files("--expert", words.experts);
  request.features = parse_task_files("--features", words.features);
  request.samples = parse_task_files("--samples", words.samples);
  request.importance = parse_task_files("--importance", words.importance);
  request.heads = parse_task_files("--head", words.heads);
  request.weights = parse_weights(words.weights);
  if (words.alpha) {
    request.alpha_by_outputs = *words.alpha == "auto";
    if (!request.alpha_by_outputs) {
      std::string number = *words.alpha;
      if (const auto problem = finite_number(true)(number); !problem.empty())
        throw CLI::ValidationError("--alpha", problem + ", or auto");
      request.alpha = std::stod(number);
    }
  }
  if (words.max_shard_size)
    request.max_shard_size = parse_size("--max-shard-size", *words.max_shard_size);
}

}  // namespace

void add_merge(CLI::App& program, std::function<void(const merge_request&)> run) {
  if (!run)
    run = [](const merge_request& request) {
      const merge_result result = run_merge(request);
      if (request.how != verbosity::quiet) std::cout << result.summary << '\n';
    };
  auto request = std::make_shared<merge_request>();
  auto words = std::make_shared<merge_words>();
  auto& command = *program.add_subcommand("merge", "Merge experts into one checkpoint");
  auto* const base = command
                         .add_option("--base", request->base,
                                     "The pretrained network that all experts come from (not "
                                     "required with --adapter)")
                         ->required()
                         ->type_name("P");
  add_list(
      command, "--expert", words->experts, "NAME=P",
      "A fine-tuned network, or PEFT's folder of a LoRA adapter, and the name of its task; tasks "
      "trim in this order")
      ->required();
  command
      .add_option("--output", request->output,
                  "The merged network: a file if the name ends in .safetensors, else in the "
                  "format of the base")
      ->required()
      ->type_name("F");
  add_method(command, *request, *words);
  add_outputs(command, *request, *words);
  add_adapters(command, *request, base);
  add_verbosity(command, request->how);
  add_rule_option(command, request->rules);
  add_names(command, *request);
  add_inputs(command, *request, *words);
  add_cat(command, *request);
  command
      .add_option("--feature-coefficient", request->feature_coefficient,
                  "Features come from base + A (expert - base) (default: 1, "
                  "the expert; preset port: alpha)")
      ->type_name("A")
      ->check(finite_number(true))
      ->group(samples_group);
  command.callback([request, words, run] {
    read(*words, *request);
    run(*request);
  });
}

}  // namespace catmerge::harness

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/merge/request.hpp>
#include <memory>

namespace catmerge::harness {

void add_merge(CLI::App& program) {
  auto a = std::make_shared<merge_arguments>();
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
  command
      ->add_option("--method", a->method,
                   "The merging method, with settings if need be: ties:density=0.1 (`catmerge "
                   "methods` lists them)")
      ->type_name("METHOD")
      ->capture_default_str();
  command
      ->add_option(
          "--before", a->before,
          "What changes the task vectors before the method: cat, dare, tatr, with settings; "
          "several are applied in this order")
      ->type_name("TRANSFORM")
      ->expected(1)
      ->take_all();
  command
      ->add_option(
          "--method-for", a->method_for,
          "Another method for some parameters: names, or @linear, @scale, @shift, @other; "
          "the last that applies counts. A method that looks at the whole model looks at its "
          "own parameters only")
      ->type_name("PATTERN=METHOD")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--alpha", a->alpha,
                   "Coefficient of the merged task vector (default: 0.4 for cat and "
                   "task-arithmetic, else the method's own)")
      ->check(finite_number(true));
  command
      ->add_option("--weight", a->weights,
                   "What an expert's task vector is multiplied by before anything else, in every "
                   "method (default: 1)")
      ->type_name("TASK=W")
      ->expected(1)
      ->take_all();
  command
      ->add_option("--out-dtype", a->out_dtype,
                   "Type of the merged floating-point tensors; base: each its own")
      ->check(CLI::IsMember({"base", "f32", "f16", "bf16", "f64"}))
      ->capture_default_str();
  command
      ->add_option(
          "--max-shard-size", a->max_shard_size,
          "Largest file of an output that is a Hugging Face folder: bytes, or with KB, MB, "
          "GB (powers of 1000), KiB, MiB, GiB; 0: one file")
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_flag(
      "--overwrite", a->overwrite,
      "Replace outputs that exist, once the new ones are finished. A folder goes as a whole; it is "
      "refused if it holds a file, other than weights, that the new one does not");
  command
      ->add_option("--threads", a->threads,
                   "Threads that compute (with more than one, another writes); the result does not "
                   "depend on it")
      ->check(CLI::Range(1U, 1024U));
  command
      ->add_option("--report", a->reports,
                   "What the merge did to every parameter: a page to look at, or all numbers as "
                   "JSON, by the file's name; may be given for both")
      ->type_name("F.html|F.json")
      ->expected(1)
      ->take_all();
  add_verbosity(*command, a->quiet, a->verbose);
  add_rule_option(*command, a->rules);

  const std::string names =
      "Which tensors (PATTERN: *, ? and {a,b} in whole names; each option may be given "
      "several times)";
  const auto patterns = [&](const char* option, std::vector<std::string>& list, const char* what) {
    command->add_option(option, list, what)
        ->type_name("PATTERN")
        ->expected(1)
        ->take_all()
        ->group(names);
  };
  patterns("--include", a->include, "Merge these only; all others are the base's, bit for bit");
  patterns("--exclude", a->exclude, "Do not merge these: they are the base's, bit for bit");
  patterns("--drop", a->drop, "Leave these out: neither compared nor written");
  patterns("--task-heads", a->task_heads,
           "These are each task's own: not merged, written to --heads-output");
  command
      ->add_option("--heads-output", a->heads_output,
                   "The folder of what --task-heads names, TASK.safetensors each")
      ->type_name("D")
      ->group(names);
  patterns("--resized", a->resized,
           "Tables that some experts have with more or fewer rows: the rows in common are merged, "
           "the result has the base's");
  command
      ->add_option("--missing", a->missing,
                   "What an expert lacks is an error, or stands there as the base has it")
      ->check(CLI::IsMember({"error", "base"}))
      ->capture_default_str()
      ->group(names);
  command
      ->add_option(
          "--rename", a->renames,
          "Names of an expert (of all without EXPERT:) that are other ones in the base; one * on "
          "each side stands for the same: 'cars:bert.*=*', '*.gamma=*.weight'. Several apply one "
          "after the other; a name that the base has stays")
      ->type_name("EXPERT:FROM=TO")
      ->expected(1)
      ->take_all()
      ->group(names);
  command
      ->add_option("--contradictions", a->contradictions,
                   "An expert whose configuration or tokens contradict the base's is an error, or "
                   "is merged with a warning")
      ->check(CLI::IsMember({"error", "warn"}))
      ->capture_default_str()
      ->group(names);
  command
      ->add_option(
          "--set", a->overrides,
          "Other settings for some parameters: names, or @linear, @scale, @shift, @other; "
          "keys alpha and, where the method trims, lambda and rank; the last that applies counts")
      ->type_name("PATTERN:KEY=VALUE,...")
      ->expected(1)
      ->take_all()
      ->group(names);

  command
      ->add_option("--importance", a->importance,
                   "How much each entry matters to a task, in tensors named and shaped like the "
                   "parameters: squared gradients (fisher), mean absolute gradients (tatr)")
      ->type_name("NAME=P")
      ->expected(1)
      ->take_all();

  const std::string group = "CAT Merging, and what any method is told of features";
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
                   "A task's unlabeled samples, run through its expert (CLIP vision, BERT, "
                   "RoBERTa, convnet)")
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
  command
      ->add_option("--basis-tolerance", a->tolerance,
                   "Error of these directions, relative to G_k's largest eigenvalue (0: 1e-6, 1e-8 "
                   "for weights in double; below 4e-7 takes twice the time)")
      ->check(finite_number(false))
      ->capture_default_str()
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

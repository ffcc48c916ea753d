// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <catmerge/io/atomic_path.hpp>
#include <catmerge/model/networks.hpp>
#include <chrono>
#include <cstdio>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/commands/command_line.hpp>
#include <harness/experiment/laboratory.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/report/page/experiment_page.hpp>
#include <harness/report/report_files.hpp>
#include <iostream>
#include <span>

namespace catmerge::harness {

namespace {

struct arguments {
  std::string folder, output;
  std::vector<std::string> studies, rules, drop, task_heads;
  experiment_plan plan;
  bool overwrite = false, quiet = false, verbose = false;
  unsigned threads = default_threads();
};

using run_study = study (laboratory::*)();
const std::vector<std::pair<std::string, run_study>>& all_studies() {
  static const std::vector<std::pair<std::string, run_study>> list = {
      {"comparison", &laboratory::comparison}, {"ablation", &laboratory::ablation},
      {"samples", &laboratory::samples},       {"alpha", &laboratory::alpha},
      {"lambda", &laboratory::lambda},         {"rank", &laboratory::rank},
      {"order", &laboratory::order},           {"classes", &laboratory::classes},
      {"tasks", &laboratory::task_count}};
  return list;
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  io::atomic_file file(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

std::string tables_of(const std::vector<study>& studies, const std::vector<std::string>& tasks,
                      const std::vector<std::string>& notes) {
  std::string text;
  for (const auto& s : studies)
    text += "### " + s.title + "\n" + s.note + "\n\n" + s.markdown(tasks) + "\n";
  for (const auto& note : notes) text += "- " + note + "\n";
  return text;
}

void run_experiment(const arguments& a) {
  const auto began = std::chrono::steady_clock::now();
  const family files(a.folder);
  merge_policy policy;
  policy.drop = {"--drop", a.drop};
  policy.task_heads = {"--task-heads", a.task_heads};
  policy.pieces = false;
  std::optional<io::atomic_folder> output;
  if (!a.output.empty()) {
    require_apart(a.output, {a.folder});
    output.emplace(a.output, a.overwrite ? io::existing::replace : io::existing::refuse,
                   [](const std::filesystem::path& name) {
                     return name == "results.json" || name == "results.csv" ||
                            name == "tables.md" || name == "index.html";
                   });
    output->check_replaceable();
  }
  const io::checkpoint base(files.base);
  auto rules = rules_of(base);
  add_rules(a.rules, rules);
  const auto net = open_network(base, files.config);
  pool threads(a.threads);
  progress terminal(verbosity_of(a.quiet, a.verbose));
  laboratory lab(files, rules, policy, *net, a.plan, threads, terminal);
  const auto tasks = lab.tasks();
  std::vector<std::string> titles = tasks;  // and by what each is measured, where not by accuracy
  for (std::size_t k = 0; k < titles.size(); ++k)
    if (const auto metric = lab.metrics()[k]; metric != "accuracy")
      titles[k] += " (" + metric + ")";

  std::vector<study> done;
  for (const auto& [name, run] : all_studies()) {
    const auto& wanted = a.studies;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    study found = (lab.*run)();
    terminal.clear();
    if (found.rows.empty() && found.curves.empty()) continue;  // of methods that are not compared
    done.push_back(std::move(found));
    // Told as soon as it is known.
    std::cout << "### " << done.back().title << '\n'
              << done.back().note << "\n\n"
              << done.back().markdown(titles) << '\n'
              << std::flush;
  }
  for (const auto& note : lab.notes()) std::cout << "- " << note << '\n';

  if (!output) return;
  json results;
  results["catmerge"] = {{"version", version_text}};
  results["family"] = files.name;
  results["tasks"] = tasks;
  results["metrics"] = lab.metrics();
  results["seeds"] = a.plan.seeds;
  results["samples"] = a.plan.samples;
  results["alphas"] = a.plan.alphas;
  results["run"] = run_of(began, a.threads);
  results["notes"] = lab.notes();
  for (const auto& s : done) results["studies"].push_back(s.to_json());
  std::string csv = study::csv_head();
  for (const auto& s : done) csv += s.csv(tasks);
  write_file(output->partial() / "results.json", text_of(results));
  write_file(output->partial() / "results.csv", csv);
  write_file(output->partial() / "tables.md", tables_of(done, titles, lab.notes()));
  write_file(output->partial() / "index.html", experiment_page(results));
  output->commit();
}

}  // namespace

void add_experiment(CLI::App& program) {
  auto a = std::make_shared<arguments>();
  auto* command = program.add_subcommand(
      "experiment", "Compare the methods on a family of networks, and study what matters");
  command
      ->add_option(
          "folder", a->folder,
          "The family: base/, experts/, heads/ (or in the experts), samples/, validation/, "
          "test/; fisher/ and sensitivity/ if there are any")
      ->required()
      ->type_name("FOLDER");
  command
      ->add_option("--output", a->output,
                   "A folder for results.json, results.csv, tables.md and index.html; the tables "
                   "are printed in any case")
      ->type_name("D");
  command->add_flag("--overwrite", a->overwrite, "Replace an output that exists");
  std::vector<std::string> names;
  for (const auto& [name, run] : all_studies()) names.push_back(name);
  command->add_option("--studies", a->studies, "Which, with commas between them (default: all)")
      ->check(CLI::IsMember(names))
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  std::vector<std::string> methods;
  for (const auto& m : offered_methods()) methods.push_back(m.name);
  command
      ->add_option("--methods", a->plan.methods,
                   "Which to compare, with commas between them (default: all)")
      ->check(CLI::IsMember(methods))
      ->delimiter(',')
      ->expected(1)
      ->take_all();
  command->add_option("--samples", a->plan.samples, "Unlabeled samples per task")
      ->check(CLI::Range(index_t{1}, index_t{1000000}))
      ->capture_default_str();
  command->add_option("--seeds", a->plan.seeds, "Draws of samples")
      ->check(CLI::Range(index_t{1}, index_t{1000}))
      ->capture_default_str();
  command->add_option("--alphas", a->plan.alphas, "The grid of alphas")
      ->delimiter(',')
      ->check(finite_number(true))
      ->expected(1)
      ->take_all();
  command->add_option("--lambdas", a->plan.lambdas, "The grid of CAT's lambdas")
      ->delimiter(',')
      ->check(finite_number(false))
      ->expected(1)
      ->take_all();
  command->add_option("--ranks", a->plan.ranks, "The grid of CAT's ranks")
      ->delimiter(',')
      ->check(whole_number())
      ->expected(1)
      ->take_all();
  command->add_option("--drop", a->drop, "Tensors to leave out (PATTERN: *, ? and {a,b})")
      ->type_name("PATTERN")
      ->expected(1)
      ->take_all();
  command->add_option("--task-heads", a->task_heads, "Tensors that are each task's own")
      ->type_name("PATTERN")
      ->expected(1)
      ->take_all();
  add_rule_option(*command, a->rules);
  command->add_option("--threads", a->threads, "Threads; the result does not depend on it")
      ->check(CLI::Range(1U, 1024U));
  add_verbosity(*command, a->quiet, a->verbose);
  command->callback([a] { run_experiment(*a); });
}

}  // namespace catmerge::harness

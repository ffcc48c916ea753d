// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <algorithm>
#include <catmerge/io/atomic_path.hpp>
#include <chrono>
#include <harness/checkpoints/checkpoint_rules.hpp>
#include <harness/experiment/laboratory.hpp>
#include <harness/experiment/run_experiment.hpp>
#include <harness/networks/open_network.hpp>
#include <harness/report/page/experiment_page.hpp>
#include <harness/report/report_files.hpp>
#include <harness/system/paths.hpp>
#include <memory>
#include <span>

namespace catmerge::harness {

namespace {

struct named_study {
  const char* name;
  study (*run)(laboratory& lab);
};

constexpr named_study all_studies[] = {
    {"comparison", [](laboratory& lab) { return lab.comparison(); }},
    {"ablation", [](laboratory& lab) { return lab.ablation(); }},
    {"auto", [](laboratory& lab) { return lab.automatic(); }},
    {"samples", [](laboratory& lab) { return lab.samples(); }},
    {"alpha", [](laboratory& lab) { return lab.alpha(); }},
    {"lambda", [](laboratory& lab) { return lab.lambda(); }},
    {"rank", [](laboratory& lab) { return lab.rank(); }},
    {"order", [](laboratory& lab) { return lab.order(); }},
    {"classes", [](laboratory& lab) { return lab.classes(); }},
    {"other-samples", [](laboratory& lab) { return lab.other_samples(); }},
    {"tasks", [](laboratory& lab) { return lab.task_count(); }},
    {"relatedness", [](laboratory& lab) { return lab.relatedness(); }},
    {"task-weights", [](laboratory& lab) { return lab.task_weights(); }}};

merge_policy policy_of(const experiment_request& request) {
  merge_policy policy;
  policy.drop = {"--drop", request.drop};
  policy.task_heads = {"--task-heads", request.task_heads};
  policy.pieces = tables_in_pieces::none;
  return policy;
}

/// The folder of results, which appears whole; null if the request has none. Throws if it exists
/// and may not be replaced.
std::unique_ptr<io::atomic_folder> open_output(const experiment_request& request) {
  if (request.output.empty()) return nullptr;
  require_apart(request.output, {request.folder});
  const auto is_ours = [](const std::filesystem::path& name) {
    return name == "results.json" || name == "results.csv" || name == "tables.md" ||
           name == "index.html";
  };
  auto output = std::make_unique<io::atomic_folder>(
      request.output, request.overwrite ? io::existing::replace : io::existing::refuse, is_ours);
  output->check_replaceable();
  return output;
}

/// The headings of the tasks' columns, with the metric if it is not accuracy.
std::vector<std::string> titles_of(const laboratory& lab) {
  std::vector<std::string> titles = lab.tasks();
  for (std::size_t k = 0; k < titles.size(); ++k)
    if (const auto metric = lab.metrics()[k]; metric != "accuracy")
      titles[k] += " (" + metric + ")";
  return titles;
}

std::string table_of(const study& s, const std::vector<std::string>& titles) {
  return "### " + s.title + "\n" + s.note + "\n\n" + s.markdown(titles) + "\n";
}

std::vector<study> run_studies(const experiment_request& request, laboratory& lab,
                               progress& terminal, std::ostream& out) {
  const auto titles = titles_of(lab);
  std::vector<study> done;
  for (const auto& [name, run] : all_studies) {
    const auto& wanted = request.studies;
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    study found = run(lab);
    terminal.clear();
    if (found.rows.empty() && found.curves.empty()) continue;  // its methods are not compared
    out << table_of(found, titles) << std::flush;
    done.push_back(std::move(found));
  }
  for (const auto& note : lab.notes()) out << "- " << note << '\n';
  return done;
}

json results_of(const experiment_request& request, const family& files, const laboratory& lab,
                const std::vector<study>& studies, json run) {
  json results;
  results["catmerge"] = {{"version", version_text}};
  results["family"] = files.name;
  results["tasks"] = lab.tasks();
  results["metrics"] = lab.metrics();
  results["seeds"] = request.plan.seeds;
  results["samples"] = request.plan.samples;
  results["alphas"] = request.plan.alphas;
  results["run"] = std::move(run);
  results["notes"] = lab.notes();
  for (const auto& s : studies) results["studies"].push_back(s.to_json());
  return results;
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  io::atomic_file file(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.commit();
}

void write_results(const std::filesystem::path& folder, const json& results, const laboratory& lab,
                   const std::vector<study>& studies) {
  std::string csv = study::csv_head(), tables;
  for (const auto& s : studies) {
    csv += s.csv(lab.tasks());
    tables += table_of(s, titles_of(lab));
  }
  for (const auto& note : lab.notes()) tables += "- " + note + "\n";
  write_file(folder / "results.json", text_of(results));
  write_file(folder / "results.csv", csv);
  write_file(folder / "tables.md", tables);
  write_file(folder / "index.html", experiment_page(results));
}

}  // namespace

std::vector<std::string> study_names() {
  std::vector<std::string> names;
  for (const auto& s : all_studies) names.emplace_back(s.name);
  return names;
}

void run_experiment(const experiment_request& request, std::ostream& out) {
  const auto began = std::chrono::steady_clock::now();
  const family files(request.folder);
  const merge_policy policy = policy_of(request);
  const auto output = open_output(request);
  const io::checkpoint base(files.base);
  auto rules = rules_of(base);
  add_rules(request.rules, rules);
  const auto net = open_network(base, files.config);
  pool threads(request.threads);
  progress terminal(request.how);
  laboratory lab(files, rules, policy, *net, request.plan, threads, terminal);
  const auto studies = run_studies(request, lab, terminal, out);
  if (!output) return;
  const json results = results_of(request, files, lab, studies, run_of(began, request.threads));
  write_results(output->partial(), results, lab, studies);
  output->commit();
}

}  // namespace catmerge::harness

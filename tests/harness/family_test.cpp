// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <doctest/doctest.h>

#include <unistd.h>

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/convert.hpp>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

// The committed networks, merged by the program and by benchmarks/reference/cat.py (NumPy, float64,
// dense G_k). fixtures/*_family.json are that script's --summary for all experts in the order of
// their names, paper's settings, features of the first three samples.

namespace fs = std::filesystem;

namespace {

nlohmann::json parse(const fs::path& path) {
  std::ifstream in(path);
  return nlohmann::json::parse(in);
}

std::vector<float> values(const catmerge::io::checkpoint& file, const std::string& name) {
  const auto& entry = file.at(name);
  std::vector<float> v(static_cast<std::size_t>(*catmerge::io::element_count(entry.shape)));
  catmerge::io::convert(entry.bytes, *catmerge::io::scalar_of(entry.type), std::span<float>(v));
  return v;
}

/// Float products of float rows: 24 bits, sums over at most 200 terms, twice.
constexpr double energy_tolerance = 1e-5;

void check_close(const nlohmann::json& found, const nlohmann::json& expected) {
  REQUIRE(found.size() == expected.size());
  for (std::size_t k = 0; k < expected.size(); ++k) {
    const double want = expected[k].get<double>();
    CHECK(std::abs(found[k].get<double>() - want) <= energy_tolerance * std::abs(want) + 1e-12);
  }
}

}  // namespace

TEST_CASE("the committed networks merge to what the NumPy reference says") {
  std::string network;
  SUBCASE("vision transformers") {
    network = "vision";
  }
  SUBCASE("convolutional networks") {
    network = "convnet";
  }
  CAPTURE(network);
  const fs::path family = fs::path(CATMERGE_FAMILIES) / network / "family";
  const auto expected = parse(fs::path(CATMERGE_FIXTURES) / (network + "_family.json"));
  const fs::path out =
      fs::temp_directory_path() / ("catmerge-family-" + std::to_string(::getpid()));
  fs::create_directories(out);
  const std::string program = CATMERGE_PROGRAM;
  std::string arguments = " --base " + (family / "base").string();
  for (const auto& name : expected["tasks"]) {
    const auto task = name.get<std::string>();
    const auto file = task + ".safetensors";
    const auto features = (out / file).string();
    REQUIRE(std::system((program + " features --model " + (family / "experts" / file).string() +
                         " --config " + (family / "base" / "config.json").string() + " --samples " +
                         (family / "samples" / file).string() + " --sample-count 3 --output " +
                         features)
                            .c_str()) == 0);
    arguments += " --expert " + task + "=" + (family / "experts" / file).string() + " --features " +
                 task + "=" + features;
  }
  const auto merge = [&](const std::string& more, const std::string& name) {
    REQUIRE(std::system((program + " merge --method cat" + arguments + more +
                         " --out-dtype f32 --output " + (out / (name + ".safetensors")).string() +
                         " --report " + (out / (name + ".json")).string())
                            .c_str()) == 0);
    return parse(out / (name + ".json"));
  };
  // Like the reference, in double; and as it is by default, where a direction may be off by 1e-6
  // of the spectrum over its gap (1e-3 and more here), and what it removes with it: by 1e-3, whose
  // square is what conflict and deviation change by, some 1e-5 together with their slopes.
  const auto report = merge(" --basis-tolerance 1e-8", "merged"), usual = merge("", "usual");
  for (const auto& found : usual["parameters"]) {
    const auto& want = expected["parameters"][found["name"].get<std::string>()];
    if (want["kind"] != "linear") continue;
    CHECK(found["removed"].size() == want["taken"].size());
    for (std::size_t k = 0; k < want["taken"].size(); ++k)
      CHECK(found["removed"][k]["eigenvalues"].size() == want["taken"][k].get<std::size_t>());
    double value = 0, least = 0;  // the sums that all trims together make small
    for (std::size_t k = 0; k < want["taken"].size(); ++k) {
      value += found["conflict_after"][k].get<double>() + 5 * found["deviation"][k].get<double>();
      least += want["conflict_after"][k].get<double>() + 5 * want["deviation"][k].get<double>();
    }
    CHECK(std::abs(value - least) <= 1e-4 * least);
  }

  const catmerge::io::checkpoint base(family / "base"), merged(out / "merged.safetensors");
  CHECK(report["parameters"].size() == expected["parameters"].size());
  for (const auto& found : report["parameters"]) {
    const auto name = found["name"].get<std::string>();
    CAPTURE(name);
    const auto& want = expected["parameters"][name];
    CHECK(found["kind"] == want["kind"]);
    const auto before = values(base, name), after = values(merged, name);
    double squares = 0, signed_sum = 0, magnitude = 0;
    for (std::size_t i = 0; i < before.size(); ++i) {
      const double added = static_cast<double>(after[i]) - static_cast<double>(before[i]);
      squares += added * added;
      signed_sum += ((i * 2654435761U) & 0x80000000U) != 0 ? added : -added;
      magnitude += std::abs(static_cast<double>(after[i]));
    }
    // Each value is off by its rounding to float and that of a handful of float operations on
    // vectors that are much smaller than the weights: within two units in the last place of the
    // weight.
    const double each = std::ldexp(1.0, -23);
    CHECK(std::abs(signed_sum - want["signed_sum"].get<double>()) <= each * magnitude);
    CHECK(std::abs(std::sqrt(squares) - want["norm"].get<double>()) <= each * magnitude);
    if (want["kind"] == "other") continue;
    check_close(found["conflict_before"], want["conflict_before"]);
    check_close(found["conflict_after"], want["conflict_after"]);
    for (std::size_t k = 0; k < expected["tasks"].size(); ++k) {
      // The deviation is a difference of almost equal vectors: its error is relative to the whole.
      const double scale =
          want["deviation"][k].get<double>() + want["conflict_before"][k].get<double>();
      CHECK(std::abs(found["deviation"][k].get<double>() - want["deviation"][k].get<double>()) <=
            energy_tolerance * scale);
      const auto& removed = found["removed"][k];
      if (want["kind"] == "linear")
        CHECK(removed["eigenvalues"].size() == want["taken"][k].get<std::size_t>());
      else
        CHECK(removed["coordinates"] == want["masks"][k]);
    }
  }
  fs::remove_all(out);
}

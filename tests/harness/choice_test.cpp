// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

// In this process: the choice of a setting by distances of samples, its interval, and the temporary
// file of merged networks.

#include <doctest/doctest.h>

#include <cmath>
#include <harness/calibration/choice_interval.hpp>
#include <harness/system/scratch_file.hpp>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

using namespace catmerge::harness;

namespace {

/// A curve over the settings 1, 2, ..., from samples with parabolas of these minima, per task.
distance_curve curve_of(const std::vector<std::vector<double>>& minima, int settings = 9) {
  distance_curve curve;
  for (int i = 1; i <= settings; ++i) {
    curve.settings.push_back(i);
    curve.distances.emplace_back();
    for (const auto& task : minima) {
      curve.distances.back().emplace_back();
      for (const double m : task) curve.distances.back().back().push_back((i - m) * (i - m));
    }
  }
  return curve;
}

}  // namespace

TEST_CASE("the choice is the least mean over tasks, whatever their numbers of samples") {
  CHECK(curve_of({{3, 3, 3}}).choice() == 3);
  CHECK(curve_of({{2, 2, 2, 2, 2, 2}, {8}}).choice() == 5);  // over samples it would be 3
  CHECK(curve_of({{2, 4}, {8, 8}}).mean(4) == doctest::Approx((9 + 1) / 4.0 + 9 / 2.0));
  CHECK(curve_of({{0, 1}}).at_edge());
  CHECK_FALSE(curve_of({{2, 3}}).at_edge());
}

TEST_CASE("the interval of a choice: a point for equal samples, all for two that disagree") {
  const auto equal = interval_of(curve_of({{4, 4, 4}, {4, 4}}));
  REQUIRE(equal);
  CHECK(equal->low == 4);
  CHECK(equal->high == 4);
  CHECK_FALSE(equal->is_wide());
  // Both copies of one sample: a quarter of the draws each.
  const auto two = interval_of(curve_of({{2, 8}}));
  REQUIRE(two);
  CHECK(two->low == 2);
  CHECK(two->high == 8);
  CHECK(two->is_wide());
  CHECK_FALSE(interval_of(curve_of({{4, 5}, {4}})));
}

TEST_CASE("the share of resamplings with the same choice: all, a half, or unknown") {
  CHECK(share_of_choice(curve_of({{4, 4, 4}, {4, 4}})) == 1.0);
  // Between two samples that disagree: only draws of one copy of each choose it, half of 1,000
  // draws, 0.5 +- 4 * 0.016.
  const auto middle = share_of_choice(curve_of({{2, 8}}));
  REQUIRE(middle);
  CHECK(std::abs(*middle - 0.5) < 0.064);
  CHECK_FALSE(share_of_choice(curve_of({{4, 5}, {4}})));
}

TEST_CASE("the interval of a choice: the mean's, by the normal distribution") {
  // The choice follows the mean of the minima; of 400 of variance 4 its deviation is a tenth. A
  // second task with one minimum halves it. 1.96 deviations to each side, on a fine grid.
  std::mt19937 random(3);
  std::normal_distribution<double> normal(5, 2);
  std::vector<double> minima(400);
  for (double& m : minima) m = normal(random);
  const double mean = std::accumulate(minima.begin(), minima.end(), 0.0) / 400;
  double variance = 0;
  for (const double m : minima) variance += (m - mean) * (m - mean) / 400;
  distance_curve curve;
  for (double setting = 4; setting < 6; setting += 0.01) {
    curve.settings.push_back(setting);
    curve.distances.push_back({{}, {(setting - 5) * (setting - 5), (setting - 5) * (setting - 5)}});
    for (const double m : minima)
      curve.distances.back()[0].push_back((setting - m) * (setting - m));
  }
  const auto found = interval_of(curve);
  REQUIRE(found);
  const double middle = (mean + 5) / 2, deviation = std::sqrt(variance / 400) / 2;
  // A quantile at 2.5 % of 1,000 draws is off by some 0.085 deviations; four of those.
  const double slack = 0.35 * deviation + 0.01;
  CHECK(std::abs(found->low - (middle - 1.96 * deviation)) <= slack);
  CHECK(std::abs(found->high - (middle + 1.96 * deviation)) <= slack);
}

TEST_CASE("arrays in a temporary file keep their numbers, and places are used again") {
  const auto file = scratch_file::create();
  std::vector<std::shared_ptr<scratch_file::array>> arrays;
  const auto numbers = [](std::size_t size, float first) {
    std::vector<float> values(size);
    std::iota(values.begin(), values.end(), first);
    return values;
  };
  for (const std::size_t size : {std::size_t{1000}, std::size_t{0}, std::size_t{7}}) {
    arrays.push_back(file->make(size));
    arrays.back()->write(0, numbers(size, static_cast<float>(size)));
  }
  arrays[0]->write(10, std::vector<float>{-1, -2});
  std::vector<float> expected = numbers(1000, 1000), found(1000);
  expected[10] = -1, expected[11] = -2;
  // Read by several threads at the same time.
  std::vector<std::vector<float>> copies(4, found);
  std::vector<std::thread> readers;
  for (auto& copy : copies) readers.emplace_back([&] { arrays[0]->read(0, copy); });
  for (auto& reader : readers) reader.join();
  for (const auto& copy : copies) CHECK(copy == expected);
  std::vector<float> part(3);
  arrays[0]->read(9, part);
  CHECK(part == std::vector<float>{1009, -1, -2});

  // The place of a lost array belongs to the next of its size; others stay.
  arrays[0] = nullptr;
  const auto next = file->make(1000), other = file->make(1000);
  next->write(0, numbers(1000, 0));
  other->write(0, numbers(1000, 5000));
  next->read(0, found);
  CHECK(found == numbers(1000, 0));
  std::vector<float> seven(7);
  arrays[2]->read(0, seven);
  CHECK(seven == numbers(7, 7));
}

// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <catmerge/io/atomic_path.hpp>
#include <catmerge/io/checkpoint_writer.hpp>
#include <csignal>
#include <map>
#include <mutex>
#include <thread>

#include "support/files.hpp"

// Outputs: shards, files beside the weights, targets that exist, and kills.

using namespace io_test;
using format = io::checkpoint_format;
using io::existing;

namespace {

std::vector<io::tensor_info> bytes_tensors(const std::vector<catmerge::index_t>& sizes) {
  std::vector<io::tensor_info> infos;
  for (std::size_t i = 0; i < sizes.size(); ++i)
    infos.push_back({"t" + std::to_string(i), io::dtype::u8, {sizes[i]}});
  return infos;
}

std::vector<std::vector<std::string>> names_in(const std::vector<std::vector<io::tensor_info>>& s) {
  std::vector<std::vector<std::string>> names;
  for (const auto& shard : s) {
    names.emplace_back();
    for (const auto& info : shard) names.back().push_back(info.name);
  }
  return names;
}

/// Writes one tensor "w" that holds `value`.
void write_folder(const fs::path& path, const std::string& value, existing target) {
  io::checkpoint_writer writer(
      path, {{"w", io::dtype::u8, {static_cast<catmerge::index_t>(value.size())}}},
      {format::hugging_face_folder, {}, {}, 0, target});
  writer.write("w", bytes_of(value));
  writer.commit();
}

std::string value_in(const fs::path& path) {
  const io::checkpoint read(path);
  return text_of(read.at("w").bytes);
}

}  // namespace

TEST_CASE("tensors go to shards in their order, none beyond the limit but alone") {
  using names = std::vector<std::vector<std::string>>;
  const auto plan = [](const std::vector<catmerge::index_t>& sizes, std::uint64_t most) {
    return names_in(io::plan_shards(bytes_tensors(sizes), most));
  };
  CHECK(plan({3, 4, 5}, 0) == names{{"t0", "t1", "t2"}});
  CHECK(plan({3, 4, 5}, 12) == names{{"t0", "t1", "t2"}});
  CHECK(plan({3, 4, 5}, 11) == names{{"t0", "t1"}, {"t2"}});
  CHECK(plan({3, 4, 5}, 7) == names{{"t0", "t1"}, {"t2"}});
  CHECK(plan({3, 4, 5}, 1) == names{{"t0"}, {"t1"}, {"t2"}});
  CHECK(plan({9, 1, 1, 9, 0}, 2) == names{{"t0"}, {"t1", "t2"}, {"t3"}, {"t4"}});
  CHECK(plan({0, 0}, 1) == names{{"t0", "t1"}});
  CHECK(plan({}, 5) == names{{}});
}

TEST_CASE("random tables of tensors come back from shards of any size, dtype by dtype") {
  std::mt19937 random(29);
  for (int round = 0; round < 60; ++round) {
    const temporary_folder folder;
    const std::uint64_t most = random() % 3 == 0 ? 0 : 1 + random() % 400;
    std::vector<io::tensor_info> infos;
    std::vector<std::string> contents;
    std::uint64_t total = 0;
    const auto count = static_cast<unsigned>(random() % 40);
    for (unsigned i = 0; i < count; ++i) {
      io::tensor_info info{
          "\xc3\xa4/" + std::to_string(random()), static_cast<io::dtype>(i % io::dtype_count), {}};
      info.shape = random_shape(random, info.type);
      contents.push_back(random_bytes(random, io::byte_count(info).value()));
      total += contents.back().size();
      infos.push_back(info);
    }
    const auto shards = io::plan_shards(infos, most);
    for (const auto& shard : shards) {
      std::uint64_t size = 0;
      for (const auto& info : shard) size += *io::byte_count(info);
      CHECK((most == 0 || size <= most || shard.size() == 1));
    }
    io::checkpoint_writer writer(folder / "out", infos,
                                 {format::hugging_face_folder, {{"format", "pt"}}, {}, most});
    std::vector<std::size_t> order(infos.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      const auto bytes = bytes_of(contents[i]);
      const std::size_t cut = bytes.empty() ? 0 : random() % bytes.size();
      writer.append(infos[i].name, bytes.first(cut));
      writer.append(infos[i].name, bytes.subspan(cut));
    }
    writer.commit();
    CHECK(folder.names() == std::vector<std::string>{"out"});

    const io::checkpoint read(folder / "out");
    CHECK(read.format() == format::hugging_face_folder);
    CHECK(read.size() == infos.size());
    CHECK(read.metadata() == io::metadata_t{{"format", "pt"}});
    for (std::size_t i = 0; i < infos.size(); ++i) {
      const io::tensor_entry& entry = read.at(infos[i].name);
      CHECK(io::describe(entry) == io::describe(infos[i]));
      CHECK(text_of(entry.bytes) == contents[i]);
    }
    // The files are named as Hugging Face names them, and the index says how much there is.
    const auto shard_count = std::to_string(shards.size());
    if (shards.size() == 1) {
      CHECK(fs::exists(folder / "out/model.safetensors"));
      CHECK_FALSE(fs::exists(folder / "out/model.safetensors.index.json"));
    } else {
      const auto index = nlohmann::json::parse(get(folder / "out/model.safetensors.index.json"));
      CHECK(index["metadata"]["total_size"] == total);
      CHECK(index["weight_map"].size() == infos.size());
      const std::string last = std::string(5 - shard_count.size(), '0') + shard_count;
      CHECK(fs::exists(folder / ("out/model-" + last + "-of-" + last + ".safetensors")));
      for (std::size_t s = 0; s < shards.size(); ++s)
        for (const auto& info : shards[s])
          CHECK_CONTAINS(index["weight_map"][info.name].get<std::string>(),
                         std::to_string(s + 1) + "-of-");
    }
  }
}

TEST_CASE("a tensor declared twice or never is refused, across shards too") {
  const temporary_folder folder;
  auto infos = bytes_tensors({4, 4, 4});
  const auto open = [&](const std::vector<io::tensor_info>& declared) {
    return std::make_unique<io::checkpoint_writer>(
        folder / "out", declared,
        io::checkpoint_writer::options{format::hugging_face_folder, {}, {}, 4});
  };
  CHECK_CONTAINS(message_of([&] { open(infos)->append("none", {}); }),
                 "tensor 'none': was not declared");
  CHECK_CONTAINS(message_of([&] {
                   const auto writer = open(infos);
                   for (const auto* name : {"t0", "t2"}) writer->write(name, bytes_of("four"));
                   writer->commit();
                 }),
                 "1 of 1 tensors were not written completely: 't1'");
  infos.back().name = "t0";
  CHECK_CONTAINS(message_of([&] { open(infos); }), "tensor 't0': is declared twice");
  CHECK(folder.names().empty());
}

TEST_CASE("all files but weights are carried, folders and links too") {
  const temporary_folder folder;
  const auto model = folder / "model";
  fs::create_directories(model / "1_Pooling");
  fs::create_directories(model / ".git");
  fs::create_directories(folder / "blobs");
  put(folder / "blobs/42", "{\"bos\": 0}");
  fs::create_symlink("../blobs/42", model / "tokenizer.json");
  fs::create_directory_symlink("../blobs", model / "linked");
  fs::create_symlink("nowhere", model / "dangling.txt");
  fs::create_directories(model / "run/expert");
  put(model / "run/expert/config.json", "another checkpoint's");
  put(model / "run/expert/model.safetensors", "");
  fs::create_directories(model / "out.partial-0123abcd");
  put(model / "out.partial-0123abcd/config.json", "left by a kill");
  for (const std::string name :
       {"config.json", "1_Pooling/config.json", "merges.txt", "spiece.model", ".git/config",
        "model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "flax.msgpack",
        "model.safetensors.index.json", ".hidden", "x.npy"})
    put(model / name, name);
  std::vector<std::string> found;
  const auto files = io::side_files(model);
  for (const auto& file : files) found.push_back(file.name.string());
  CHECK(found == std::vector<std::string>{"1_Pooling/config.json", "config.json", "merges.txt",
                                          "spiece.model", "tokenizer.json"});
  auto altered = files;
  altered[1] = {"config.json", {}, "{}"};
  io::checkpoint_writer writer(folder / "out", bytes_tensors({0}),
                               {format::hugging_face_folder, {}, altered});
  writer.write("t0", {});
  writer.commit();
  CHECK(get(folder / "out/1_Pooling/config.json") == "1_Pooling/config.json");
  CHECK(get(folder / "out/tokenizer.json") == "{\"bos\": 0}");
  CHECK_FALSE(fs::is_symlink(folder / "out/tokenizer.json"));
  CHECK(get(folder / "out/config.json") == "{}");
  CHECK_CONTAINS(message_of([&] { io::side_files(folder / "none"); }), "cannot list the folder");
}

TEST_CASE("an existing target is refused, or replaced whole") {
  const temporary_folder folder;
  write_folder(folder / "out", "old", existing::refuse);
  CHECK_CONTAINS(message_of([&] { write_folder(folder / "out", "new", existing::refuse); }),
                 "out: exists already");
  CHECK(value_in(folder / "out") == "old");
  write_folder(folder / "out", "new", existing::replace);
  CHECK(value_in(folder / "out") == "new");
  write_folder(folder / "fresh", "new", existing::replace);  // nothing there to replace
  CHECK(value_in(folder / "fresh") == "new");

  // Nothing is lost but weights: shards of before go, any other file is named.
  put(folder / "out/model-00001-of-00002.safetensors", "old");
  put(folder / "out/model.safetensors.index.json", "{}");
  write_folder(folder / "out", "newer", existing::replace);
  CHECK(value_in(folder / "out") == "newer");
  fs::create_directories(folder / "out/docs");
  for (const std::string name : {"thesis.tex", "docs/thesis.tex", "firmware.bin", "x.npy",
                                 "x.index.json", "docs/model.safetensors"}) {
    put(folder / ("out/" + name), "years of work");
    for (const std::string spelled : {"out", "out/", "out/../out"}) {
      CHECK_CONTAINS(message_of([&] { write_folder(folder / spelled, "x", existing::replace); }),
                     "is not replaced: it holds '" + name + "'");
    }
    CHECK(get(folder / ("out/" + name)) == "years of work");
    fs::remove(folder / ("out/" + name));
  }
  CHECK_CONTAINS(message_of([&] {
                   io::checkpoint_writer writer(
                       folder / "out", bytes_tensors({0}),
                       {format::hugging_face_folder, {}, {}, 0, existing::replace});
                   writer.write("t0", {});
                   put(folder / "out/late.txt", "");
                   writer.commit();
                 }),
                 "it holds 'late.txt'");
  fs::remove(folder / "out/late.txt");
  CHECK(value_in(folder / "out") == "newer");
  // A link stays, and the folder that it leads to is replaced; so is the one at work in.
  fs::create_directory_symlink("out", folder / "link");
  write_folder(folder / "link", "through a link", existing::replace);
  CHECK(fs::is_symlink(folder / "link"));
  CHECK(value_in(folder / "out") == "through a link");
  const fs::path here = fs::current_path();
  fs::current_path(folder / "out");
  write_folder(".", "from inside", existing::replace);
  fs::current_path(here);
  CHECK(value_in(folder / "out") == "from inside");
  fs::remove(folder / "link");
  put(folder / "file", "a file");
  CHECK_CONTAINS(message_of([&] { write_folder(folder / "file", "new", existing::replace); }),
                 "file: cannot write: expected a folder, found something else");

  // Files.
  const auto write_file = [&](const std::string& text, existing target) {
    io::atomic_file file(folder / "file", target);
    file.write_at(0, bytes_of(text));
    file.commit();
  };
  CHECK_CONTAINS(message_of([&] { write_file("x", existing::refuse); }), "file: exists already");
  CHECK(get(folder / "file") == "a file");
  write_file("longer than before", existing::replace);
  CHECK(get(folder / "file") == "longer than before");
  CHECK_CONTAINS(message_of([&] {
                   io::atomic_file late(folder / "late", existing::refuse);
                   put(folder / "late", "first");
                   late.commit();
                 }),
                 "late: exists already");
  CHECK(get(folder / "late") == "first");
  CHECK(folder.names() == std::vector<std::string>{"file", "fresh", "late", "out"});
}

TEST_CASE("more shards than may be open are written, in any order and from several threads") {
  const temporary_folder folder;
  constexpr int count = 200;
  std::mt19937 random(31);
  std::vector<io::tensor_info> infos;
  for (int i = 0; i < count; ++i) {
    infos.push_back({"w" + std::to_string(i), io::dtype::u8, {40}});
    infos.push_back({"e" + std::to_string(i), io::dtype::f32, {0, 3}});
  }
  const auto value = [](const std::string& name) {
    return name.front() == 'e' ? std::string() : (name + std::string(40, '.')).substr(0, 40);
  };
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
  rlimit limited = before;
  limited.rlim_cur = 40;
  for (const int threads : {1, 5}) {
    const auto out = folder / ("out" + std::to_string(threads));
    std::vector<std::string> names;
    for (const auto& info : infos) names.push_back(info.name);
    std::shuffle(names.begin(), names.end(), random);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &limited) == 0);
    const std::string message = message_of([&] {
      io::checkpoint_writer writer(out, infos, {format::hugging_face_folder, {}, {}, 40});
      std::atomic<std::size_t> next{0};
      std::mutex lock;
      std::string problem;
      const auto work = [&] {
        try {
          for (std::size_t i; (i = next++) < names.size();) {
            const std::string text = value(names[i]);
            const auto bytes = bytes_of(text);
            writer.append(names[i], bytes.first(bytes.size() / 2));
            writer.append(names[i], bytes.subspan(bytes.size() / 2));
          }
        } catch (const catmerge::error& e) {
          const std::lock_guard guard(lock);
          problem = e.what();
        }
      };
      std::vector<std::thread> crew;
      for (int i = 1; i < threads; ++i) crew.emplace_back(work);
      work();
      for (auto& each : crew) each.join();
      if (!problem.empty()) throw catmerge::error(problem);
      writer.commit();
    });
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK(message == "");
    const io::checkpoint read(out);
    CHECK(read.warnings().empty());
    REQUIRE(read.size() == infos.size());
    for (const auto& info : infos) {
      CHECK(io::describe(read.at(info.name)) == io::describe(info));
      CHECK(text_of(read.at(info.name).bytes) == value(info.name));
    }
    CHECK(fs::exists(out / "model-00200-of-00200.safetensors"));
  }
  // Every shard is the file that safetensors_writer makes of its tensors.
  io::safetensors_writer alone(folder / "alone", {infos[2], infos[3]}, {});
  alone.write(infos[2].name, bytes_of(value(infos[2].name)));
  alone.write(infos[3].name, {});
  alone.commit();
  CHECK(get(folder / "alone") == get(folder / "out1/model-00002-of-00200.safetensors"));
}

TEST_CASE("missing folders around an output are made, and go again with what fails") {
  const temporary_folder folder;
  const auto infos = bytes_tensors({4});
  for (const format how :
       {format::safetensors_file, format::npy_folder, format::hugging_face_folder}) {
    const auto write = [&](const std::string& name, bool is_whole) {
      return message_of([&] {
        io::checkpoint_writer writer(folder / name, infos, {how});
        CHECK(fs::is_directory((folder / name).parent_path()));
        if (is_whole) writer.write("t0", bytes_of("four"));
        writer.commit();
      });
    };
    CHECK_CONTAINS(write("a/b/c", false), "1 of 1 tensors were not written");
    CHECK(folder.names().empty());
    CHECK(write("a/b/c", true) == "");
    CHECK(text_of(io::checkpoint(folder / "a/b/c").at("t0").bytes) == "four");
    // Existing files stay.
    CHECK_CONTAINS(write("a/x/y/c", false), "1 of 1 tensors were not written");
    CHECK_FALSE(fs::exists(folder / "a/x"));
    CHECK(fs::exists(folder / "a/b/c"));
    CHECK(write("a/../d//e/./f", true) == "");
    CHECK(fs::exists(folder / "d/e/f"));
    // Two outputs in one new folder: what one leaves does not go with the other.
    {
      io::atomic_file report(folder / "new/deep/report.json");
      CHECK(write("new/deep/out", true) == "");
    }
    CHECK(fs::exists(folder / "new/deep/out"));
    CHECK_FALSE(fs::exists(folder / "new/deep/report.json"));
    {
      io::atomic_file report(folder / "newer/report.json");
      CHECK_CONTAINS(write("newer/sub/out", false), "not written");
      report.commit();
    }
    CHECK(fs::exists(folder / "newer/report.json"));
    CHECK_FALSE(fs::exists(folder / "newer/sub"));
    for (const auto& name : folder.names()) fs::remove_all(folder / name);
  }
  // A name whose folders cannot be made leaves none of them.
  put(folder / "file", "");
  CHECK_CONTAINS(message_of([&] { io::atomic_file{folder / "file/a/b"}; }),
                 "cannot create its folder " + (folder / "file/a").string());
  CHECK_CONTAINS(message_of([&] { io::atomic_file{folder / "p" / std::string(300, 'n') / "x"}; }),
                 "File name too long");
  CHECK_CONTAINS(message_of([&] { io::atomic_file{folder / "p/q" / std::string(300, 'n')}; }),
                 "File name too long");
  CHECK(folder.names() == std::vector<std::string>{"file"});
}

TEST_CASE("a kill leaves the old folder or the new one, and never a part") {
  const temporary_folder folder;
  const auto out = folder / "out";
  std::map<std::string, int> seen;
  std::mt19937 random(5);
  write_folder(out, std::string(100, 'a'), existing::refuse);
  for (int round = 0; round < 100; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (int i = 0;; ++i) {
        try {
          write_folder(out, std::string(100, static_cast<char>('a' + i % 26)), existing::replace);
        } catch (...) {
          ::_exit(1);
        }
      }
    }
    ::usleep(static_cast<unsigned>(random() % 30000));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    const std::string value = value_in(out);
    REQUIRE(value.size() == 100);
    CHECK(value == std::string(100, value.front()));
    ++seen[value.substr(0, 1)];
    CHECK(fs::is_regular_file(out / "model.safetensors"));
  }
  CHECK(seen.size() > 1);  // the children did replace it
}

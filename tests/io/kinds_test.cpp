// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <catmerge/io/checkpoint.hpp>
#include <catmerge/io/safetensors_writer.hpp>
#include <map>
#include <string>
#include <vector>

#include "support/files.hpp"

// Files and folders of other kinds: each is named for what it is, with what to do.

using namespace io_test;

namespace {

std::string message_about(const fs::path& path) {
  const std::string message = message_of([&] { io::checkpoint{path}; });
  CHECK_CONTAINS(message, path.string());
  return message;
}

/// The first bytes of a zip archive whose first member has that name.
std::string zip(const std::string& member) {
  return std::string("PK\x03\x04\0\0", 6) + std::string(20, '\0') +
         little_endian(member.size(), 2) + std::string(2, '\0') + member + "contents";
}

void write_network(const fs::path& path, const std::string& name = "w") {
  io::safetensors_writer writer(path, {{name, io::dtype::u8, {1}}});
  writer.write(name, bytes_of("v"));
  writer.commit();
}

const std::string lfs =
    "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '0') +
    "\nsize 12345\n";

}  // namespace

TEST_CASE("files of other kinds are named for what they are, with what to do") {
  const temporary_folder folder;
  struct other_file {
    std::string name, bytes;
    std::vector<std::string> expected;
  };
  const std::string zeros(100, '\0');
  const std::vector<other_file> files = {
      {"model.safetensors", lfs, {"pointer of Git LFS", "git lfs pull"}},
      {"model.safetensors", "", {"is empty"}},
      {"model.safetensors", zeros, {"nothing but zeros", "download it again"}},
      {"model.safetensors", "<!DOCTYPE html><html>Not Found</html>", {"in HTML"}},
      {"model.safetensors", "\n <HTML>Sign in</HTML>", {"in HTML"}},
      {"model.safetensors", "<?xml version='1.0'?><Error><Code>AccessDenied</Code>", {"in XML"}},
      {"pytorch_model.bin", zip("archive/data.pkl"), {"PyTorch", "pickle", "export_checkpoint.py"}},
      {"model.pt", zip("epoch_3/data.pkl"), {"PyTorch", "export_checkpoint.py"}},
      {"model.pt", zip("model/.format_version"), {"PyTorch"}},
      {"a.npz", zip("weight.npy"), {".npz archive of NumPy"}},
      {"model.zip", zip("model.safetensors"), {"zip archive", "unpack"}},
      {"model.keras", "PK\x03\x04", {"zip archive"}},
      {"old.pth", std::string("\x80\x02\x8a\nl\xfc\x9c", 7), {"pickle", "export_checkpoint.py"}},
      {"last.ckpt", std::string("\x80\x04\x95\0\0\0\0\0\0\0\0}", 12), {"pickle"}},
      {"model.gguf", "GGUF" + zeros, {"GGUF", "safetensors files of the network"}},
      {"tf_model.h5", std::string("\x89HDF\r\n\x1a\n", 8) + zeros, {"HDF5", "from_tf"}},
      {"flax_model.msgpack", "\x81\xa5model\x82" + zeros, {"msgpack", "from_flax"}},
      {"model.onnx", "\x08\x07\x12\x07pytorch\x1a", {"ONNX"}},
      {"model.tflite", std::string("\x1c\0\0\0TFL3", 8) + zeros, {"TensorFlow Lite"}},
      {"x.npy", npy_bytes("{}", ""), {"array of NumPy", "name the folder"}},
      {"model.safetensors.gz", "\x1f\x8b\x08" + zeros, {"compressed", "unpack"}},
  };
  for (const other_file& other : files) {
    const auto path = put(folder / other.name, other.bytes);
    const std::string message = message_about(path);
    for (const std::string& part : other.expected) CHECK_CONTAINS(message, part);
  }
  // In place of JSON, too: a clone without Git LFS has pointers for large tokenizers.
  CHECK_CONTAINS(message_of([&] { io::parse_json(lfs, "tokenizer.json", "vocabulary"); }),
                 "tokenizer.json: is a pointer of Git LFS");
  CHECK_CONTAINS(message_of([&] { io::parse_json("", "config.json", "configuration"); }),
                 "config.json: is empty");
  CHECK_CONTAINS(message_of([&] { io::npy_file(put(folder / "y.npy", lfs), "y"); }), "Git LFS");
  // Unknown kinds are not guessed.
  CHECK(io::describe_other_file("model.bin", bytes_of("something else")).empty());
  CHECK(io::describe_other_file("x", bytes_of(safetensors_bytes("{}", ""))).empty());
}

TEST_CASE("a file whose download ended early says how much is there") {
  const temporary_folder folder;
  const auto path = folder / "model.safetensors";
  io::safetensors_writer writer(path, {{"a", io::dtype::u8, {100}}, {"b", io::dtype::u8, {200}}});
  writer.write("a", bytes_of(std::string(100, 'a')));
  writer.write("b", bytes_of(std::string(200, 'b')));
  writer.commit();
  const std::string whole = get(path);
  put(path, whole.substr(0, whole.size() - 250));
  CHECK_CONTAINS(message_about(path),
                 "is cut short: its tensors take 300 bytes of values, found "
                 "50; the first without its bytes is tensor 'a'");
  put(path, whole.substr(0, 40));
  CHECK_CONTAINS(message_about(path), "bytes (is it cut short?)");
}

TEST_CASE("what safetensors can read is opened under any name") {
  const temporary_folder folder;
  for (const std::string name : {"weights.bin", "consolidated.safetensors", "x", "model.onnx"}) {
    write_network(folder / name);
    CHECK(io::checkpoint(folder / name).names() == std::vector<std::string>{"w"});
  }
  // An index of any name is its shards.
  fs::create_directory(folder / "f");
  write_network(folder / "f/diffusion_pytorch_model-00001-of-00002.safetensors", "a");
  write_network(folder / "f/diffusion_pytorch_model-00002-of-00002.safetensors", "b");
  const auto index =
      put(folder / "f/diffusion_pytorch_model.safetensors.index.json",
          R"({"weight_map":{"a":"diffusion_pytorch_model-00001-of-00002.safetensors",)"
          R"("b":"diffusion_pytorch_model-00002-of-00002.safetensors"}})");
  CHECK_CONTAINS(message_about(folder / "f"), "name the index itself: " + index.string());
  const io::checkpoint read(index);
  CHECK(read.names() == std::vector<std::string>{"a", "b"});
  CHECK(read.format() == io::checkpoint_format::safetensors_file);
  CHECK(read.path() == index);
  CHECK(text_of(read.at("b").bytes) == "v");
  const fs::path here = fs::current_path();
  fs::current_path(folder / "f");
  CHECK(io::checkpoint(index.filename()).size() == 2);
  fs::current_path(here);
  CHECK_CONTAINS(message_about(put(folder / "f/config.json", "{}")), "is no index of shards");
}

TEST_CASE("folders without a checkpoint say what they hold, and what to do") {
  using files = std::map<std::string, std::string>;  // "" for a network
  const auto about = [](const files& contents, const std::vector<std::string>& expected) {
    const temporary_folder folder;
    for (const auto& [name, bytes] : contents) {
      fs::create_directories((folder / name).parent_path());
      if (bytes.empty())
        write_network(folder / name);
      else
        put(folder / name, bytes);
    }
    const std::string message = message_about(folder.path());
    for (const std::string& part : expected) CHECK_CONTAINS(message, part);
    return message;
  };
  about({{"adapter_config.json", "{}"}, {"adapter_model.safetensors", ""}},
        {"is an adapter (such as LoRA", "'adapter_model.safetensors'", "as an --expert"});
  about({{"adapter_model.bin", zip("x/data.pkl")}}, {"is an adapter"});
  about({{"model.fp16.safetensors", ""}, {"config.json", "{}"}},
        {"no model.safetensors in this folder",
         "name that file itself: ", "/model.fp16.safetensors"});
  about({{"diffusion_pytorch_model.safetensors", ""}}, {"/diffusion_pytorch_model.safetensors"});
  about({{"model-00001-of-00001.safetensors", ""}},
        {"name that file itself", "/model-00001-of-00001.safetensors", "there is no index"});
  about({{"model-00001-of-00002.safetensors", ""}, {"model-00002-of-00002.safetensors", ""}},
        {"'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'",
         "model.safetensors.index.json, is missing; download it"});
  const auto two = about({{"first.safetensors", ""}, {"second.safetensors", ""}},
                         {"'first.safetensors', 'second.safetensors'", "name one of them itself"});
  CHECK_FALSE(contains(two, "shards"));
  about({{"pytorch_model.bin.index.json", "{}"},
         {"pytorch_model-00001-of-00002.bin", zip("a/data.pkl")}},
        {"holds PyTorch files ('pytorch_model-00001-of-00002.bin'", "export_checkpoint.py"});
  about({{"consolidated.00.pth", "x"}, {"params.json", "{}"}}, {"PyTorch", "export_checkpoint.py"});
  about({{"model.Q4_K_M.gguf", "GGUF"}, {"config.json", "{}"}},
        {"'model.Q4_K_M.gguf'", "not read"});
  about({{"tf_model.h5", "x"}, {"flax_model.msgpack", "x"}},
        {"'flax_model.msgpack', 'tf_model.h5'", "save it as safetensors"});
  about({{"unet/x.safetensors", ""}, {"vae/model.safetensors", ""}, {"docs/readme.txt", "x"}},
        {"expected model.safetensors", "weights in its folders 'unet', 'vae'", "/unet"});
  about({{"config.json", "{}"}}, {"expected model.safetensors, model.safetensors.index.json or"});
  std::map<std::string, std::string> many;
  for (int i = 0; i < 9; ++i) many["part" + std::to_string(i) + ".safetensors"] = "";
  about(many, {"'part0.safetensors'", " and 4 more"});
  // A pointer in place of one shard is named as such, with the shard's name.
  about({{"model.safetensors.index.json", R"({"weight_map":{"w":"model-1.safetensors"}})"},
         {"model-1.safetensors", lfs}},
        {"model-1.safetensors: is a pointer of Git LFS"});
}

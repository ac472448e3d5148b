// A stack machine over numbers that stand for things: texts, tuples, dictionaries and tensors lie
// in flat lists and refer to each other by index, so that no nesting can overflow a stack and no
// cycle can be followed.
#include <cstring>
#include <optional>
#include <unordered_map>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "workers/engine/checkpoint/header_json.h"
#include "workers/engine/checkpoint/json.h"
#include "workers/engine/checkpoint/pickle.h"
#include "workers/engine/checkpoint/torch_types.h"

namespace quantd::engine {
namespace {

constexpr size_t kStorageKeyBytesMax = 64;  // They are numbers.
constexpr size_t kThingsMax =
    20'000'000;  // About forty a tensor; bounds memory with the file's size.

enum class Kind {
  kMark,
  kNone,
  kBool,
  kNumber,
  kReal,
  kText,
  kTuple,
  kDict,
  kGlobal,
  kStorage,
  kTensor
};

struct Value {
  Kind kind = Kind::kNone;
  int64_t number = 0;  // The number itself, or an index into the list of the kind.
};

enum class Global { kOrderedDict, kTensor, kParameter, kStorage };

struct GlobalRow {
  absl::string_view module;
  absl::string_view name;
  Global global;
};
constexpr GlobalRow kGlobals[] = {
    {"collections", "OrderedDict", Global::kOrderedDict},
    {"torch._utils", "_rebuild_tensor_v2", Global::kTensor},
    {"torch._utils", "_rebuild_parameter", Global::kParameter},
};
constexpr int64_t kStorageGlobals = 100;  // kStorageGlobals + i is kTorchStorages[i].

struct Storage {
  DType dtype;
  std::string key;
  int64_t elements = 0;
};

class Machine {
 public:
  explicit Machine(absl::string_view pickle) : pickle_(pickle) {}

  absl::StatusOr<std::vector<PickledTensor>> Run() {
    while (!stopped_) {
      opcode_at_ = at_;
      QD_ASSIGN_OR_RETURN(const uint64_t opcode, Little(1));
      QD_RETURN_IF_ERROR(Step(static_cast<uint8_t>(opcode)), "its pickle, opcode ",
                         absl::StrCat(absl::Hex(opcode, absl::kZeroPad2)), " at byte ", opcode_at_);
      if (stack_.size() + memo_.size() + tuples_.size() + texts_.size() > kThingsMax) {
        return absl::DataLossError("its pickle makes too many things");
      }
    }
    return Result();
  }

 private:
  static absl::Status Refuse(absl::string_view what) { return absl::DataLossError(what); }

  absl::Status Push(Kind kind, int64_t number = 0) {
    stack_.push_back({kind, number});
    return absl::OkStatus();
  }

  absl::StatusOr<Value> Pop() {
    if (stack_.empty()) return Refuse("takes from an empty stack");
    const Value value = stack_.back();
    stack_.pop_back();
    return value;
  }

  absl::StatusOr<Value> Pop(Kind kind, absl::string_view name) {
    QD_ASSIGN_OR_RETURN(const Value value, Pop());
    if (value.kind != kind) return Refuse(absl::StrCat("needs ", name));
    return value;
  }

  // The next bytes as a number, lowest first.
  absl::StatusOr<uint64_t> Little(size_t bytes) {
    if (pickle_.size() - at_ < bytes) return Refuse("its pickle ends too early");
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) {
      value |= static_cast<uint64_t>(static_cast<uint8_t>(pickle_[at_ + i])) << (8 * i);
    }
    at_ += bytes;
    return value;
  }

  absl::StatusOr<absl::string_view> Line() {
    const size_t end = pickle_.find('\n', at_);
    if (end == absl::string_view::npos) return Refuse("its pickle ends too early");
    const absl::string_view line = pickle_.substr(at_, end - at_);
    at_ = end + 1;
    return line;
  }

  absl::Status Step(uint8_t opcode);
  absl::Status PushNumber(size_t bytes, bool negative);
  absl::Status PushLong();
  absl::Status PushText();
  absl::Status PushGlobal();
  absl::Status PushTuple(size_t count);
  absl::Status Remember(size_t bytes);
  absl::Status Recall(size_t bytes);
  absl::Status MakeStorage();
  absl::Status Call();
  absl::Status MakeTensor(const std::vector<Value>& arguments);
  absl::Status SetItems(size_t first);
  absl::Status Build();
  absl::StatusOr<size_t> PopMark();
  absl::StatusOr<std::vector<int64_t>> Numbers(const Value& tuple) const;
  absl::StatusOr<std::vector<PickledTensor>> Result();

  const absl::string_view pickle_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  bool stopped_ = false;
  std::vector<Value> stack_;
  std::unordered_map<uint64_t, Value> memo_;
  std::vector<absl::string_view> texts_;
  std::vector<std::vector<Value>> tuples_;
  std::vector<std::vector<std::pair<Value, Value>>> dicts_;
  std::vector<Storage> storages_;
  std::vector<PickledTensor> tensors_;
};

absl::Status Machine::Step(uint8_t opcode) {
  switch (opcode) {
    case 0x80: {  // PROTO
      QD_ASSIGN_OR_RETURN(const uint64_t version, Little(1));
      return version == 2 ? absl::OkStatus()
                          : Refuse(absl::StrCat("protocol ", version, " instead of 2"));
    }
    case '.':
      stopped_ = true;
      return absl::OkStatus();
    case '(':
      return Push(Kind::kMark);
    case 'N':
      return Push(Kind::kNone);
    case 0x88:
    case 0x89:
      return Push(Kind::kBool, opcode == 0x88 ? 1 : 0);
    case 'K':
      return PushNumber(1, false);
    case 'M':
      return PushNumber(2, false);
    case 'J':
      return PushNumber(4, true);
    case 0x8a:
      return PushLong();
    case 'X':
      return PushText();
    case 'c':
      return PushGlobal();
    case '}':
      dicts_.emplace_back();
      return Push(Kind::kDict, static_cast<int64_t>(dicts_.size()) - 1);
    case ')':
      return PushTuple(0);
    case 0x85:
    case 0x86:
    case 0x87:
      return PushTuple(opcode - 0x84);
    case 't': {
      QD_ASSIGN_OR_RETURN(const size_t first, PopMark());
      stack_.erase(stack_.begin() + static_cast<int64_t>(first) - 1);
      return PushTuple(stack_.size() - first + 1);
    }
    case 'q':
    case 'r':
      return Remember(opcode == 'q' ? 1 : 4);
    case 'h':
    case 'j':
      return Recall(opcode == 'h' ? 1 : 4);
    case 'Q':
      return MakeStorage();
    case 'R':
      return Call();
    case 's':
      return stack_.size() < 3 ? Refuse("needs a dictionary") : SetItems(stack_.size() - 2);
    case 'u': {
      QD_ASSIGN_OR_RETURN(const size_t first, PopMark());
      stack_.erase(stack_.begin() + static_cast<int64_t>(first) - 1);
      return SetItems(first - 1);
    }
    case 'b':
      return Build();
    default:
      return Refuse("is not one that a dictionary of tensors needs, and is refused");
  }
}

// The place of the first value above the last mark, which stays.
absl::StatusOr<size_t> Machine::PopMark() {
  for (size_t i = stack_.size(); i > 0; --i) {
    if (stack_[i - 1].kind == Kind::kMark) return i;
  }
  return Refuse("needs a mark");
}

absl::Status Machine::PushNumber(size_t bytes, bool negative) {
  QD_ASSIGN_OR_RETURN(const uint64_t value, Little(bytes));
  return Push(Kind::kNumber, negative ? static_cast<int32_t>(static_cast<uint32_t>(value))
                                      : static_cast<int64_t>(value));
}

absl::Status Machine::PushLong() {
  QD_ASSIGN_OR_RETURN(const uint64_t bytes, Little(1));
  if (bytes > 8) return Refuse("holds a number of more than 64 bits");
  QD_ASSIGN_OR_RETURN(uint64_t value, Little(bytes));
  if (bytes > 0 && bytes < 8 && (value >> (8 * bytes - 1)) != 0)
    value |= ~uint64_t{0} << (8 * bytes);
  return Push(Kind::kNumber, static_cast<int64_t>(value));
}

absl::Status Machine::PushText() {
  QD_ASSIGN_OR_RETURN(const uint64_t bytes, Little(4));
  if (pickle_.size() - at_ < bytes) return Refuse("its pickle ends too early");
  texts_.push_back(pickle_.substr(at_, bytes));
  at_ += bytes;
  return Push(Kind::kText, static_cast<int64_t>(texts_.size()) - 1);
}

absl::Status Machine::PushGlobal() {
  QD_ASSIGN_OR_RETURN(const absl::string_view module, Line());
  QD_ASSIGN_OR_RETURN(const absl::string_view name, Line());
  for (const GlobalRow& row : kGlobals) {
    if (row.module == module && row.name == name) {
      return Push(Kind::kGlobal, static_cast<int64_t>(row.global));
    }
  }
  int64_t index = kStorageGlobals;
  for (const TorchStorage& row : kTorchStorages) {
    if (module == "torch" && row.name == name) return Push(Kind::kGlobal, index);
    ++index;
  }
  return Refuse(absl::StrCat("names ", Quoted(absl::StrCat(module, ".", name)),
                             ", which is no tensor's constructor, and is refused"));
}

absl::Status Machine::PushTuple(size_t count) {
  if (stack_.size() < count) return Refuse("takes from an empty stack");
  tuples_.emplace_back(stack_.end() - static_cast<int64_t>(count), stack_.end());
  stack_.resize(stack_.size() - count);
  return Push(Kind::kTuple, static_cast<int64_t>(tuples_.size()) - 1);
}

absl::Status Machine::Remember(size_t bytes) {
  QD_ASSIGN_OR_RETURN(const uint64_t key, Little(bytes));
  if (stack_.empty()) return Refuse("takes from an empty stack");
  memo_[key] = stack_.back();
  return absl::OkStatus();
}

absl::Status Machine::Recall(size_t bytes) {
  QD_ASSIGN_OR_RETURN(const uint64_t key, Little(bytes));
  const auto found = memo_.find(key);
  if (found == memo_.end()) return Refuse(absl::StrCat("recalls ", key, ", which is not there"));
  stack_.push_back(found->second);
  return absl::OkStatus();
}

// ("storage", a storage type, key, location, elements)
absl::Status Machine::MakeStorage() {
  QD_ASSIGN_OR_RETURN(const Value value, Pop(Kind::kTuple, "a tuple"));
  const std::vector<Value>& items = tuples_[value.number];
  const bool fits = items.size() == 5 && items[0].kind == Kind::kText &&
                    texts_[items[0].number] == "storage" && items[1].kind == Kind::kGlobal &&
                    items[1].number >= kStorageGlobals && items[2].kind == Kind::kText &&
                    items[4].kind == Kind::kNumber && items[4].number >= 0;
  if (!fits) return Refuse("refers to something that is no storage");
  if (texts_[items[2].number].size() > kStorageKeyBytesMax) {
    return Refuse("refers to a storage with too long a name");
  }
  storages_.push_back({.dtype = kTorchStorages[items[1].number - kStorageGlobals].dtype,
                       .key = std::string(texts_[items[2].number]),
                       .elements = items[4].number});
  return Push(Kind::kStorage, static_cast<int64_t>(storages_.size()) - 1);
}

absl::Status Machine::Call() {
  QD_ASSIGN_OR_RETURN(const Value arguments, Pop(Kind::kTuple, "a tuple"));
  QD_ASSIGN_OR_RETURN(const Value callee, Pop(Kind::kGlobal, "a constructor"));
  const std::vector<Value>& items = tuples_[arguments.number];
  if (callee.number == static_cast<int64_t>(Global::kOrderedDict) && items.empty()) {
    dicts_.emplace_back();
    return Push(Kind::kDict, static_cast<int64_t>(dicts_.size()) - 1);
  }
  if (callee.number == static_cast<int64_t>(Global::kTensor)) return MakeTensor(items);
  if (callee.number == static_cast<int64_t>(Global::kParameter) && !items.empty() &&
      items[0].kind == Kind::kTensor) {
    return Push(Kind::kTensor, items[0].number);
  }
  return Refuse("calls a constructor in a way that no tensor needs");
}

absl::StatusOr<std::vector<int64_t>> Machine::Numbers(const Value& tuple) const {
  if (tuple.kind != Kind::kTuple) return Refuse("needs a tuple of numbers");
  const std::vector<Value>& items = tuples_[tuple.number];
  if (items.size() > static_cast<size_t>(kTensorRankMax)) {
    return Refuse(absl::StrCat("makes a tensor of ", items.size(), " dimensions"));
  }
  std::vector<int64_t> numbers;
  for (const Value& item : items) {
    if (item.kind != Kind::kNumber || item.number < 0) return Refuse("needs numbers from 0 on");
    numbers.push_back(item.number);
  }
  return numbers;
}

// (storage, offset, shape, strides, requires_grad, hooks[, metadata])
absl::Status Machine::MakeTensor(const std::vector<Value>& arguments) {
  if (arguments.size() < 6 || arguments[0].kind != Kind::kStorage ||
      arguments[1].kind != Kind::kNumber || arguments[1].number < 0) {
    return Refuse("makes a tensor of something that is no storage");
  }
  const Storage& storage = storages_[arguments[0].number];
  PickledTensor tensor;
  tensor.dtype = storage.dtype;
  tensor.storage = storage.key;
  tensor.storage_elements = storage.elements;
  tensor.offset = arguments[1].number;
  QD_ASSIGN_OR_RETURN(tensor.shape, Numbers(arguments[2]));
  QD_ASSIGN_OR_RETURN(tensor.strides, Numbers(arguments[3]));
  if (tensor.shape.size() != tensor.strides.size()) {
    return Refuse("makes a tensor with another number of strides than dimensions");
  }
  tensors_.push_back(std::move(tensor));
  return Push(Kind::kTensor, static_cast<int64_t>(tensors_.size()) - 1);
}

// The values from `first` on go, in pairs, into the dictionary below them.
absl::Status Machine::SetItems(size_t first) {
  if (first == 0 || first > stack_.size() || stack_[first - 1].kind != Kind::kDict ||
      (stack_.size() - first) % 2 != 0) {
    return Refuse("needs a dictionary and pairs");
  }
  auto& dict = dicts_[stack_[first - 1].number];
  for (size_t i = first; i < stack_.size(); i += 2) dict.emplace_back(stack_[i], stack_[i + 1]);
  stack_.resize(first);
  return absl::OkStatus();
}

// Attributes of a dictionary (torch's "_metadata"): read over.
absl::Status Machine::Build() {
  QD_RETURN_IF_ERROR(Pop(Kind::kDict, "a dictionary of attributes").status());
  if (stack_.empty() || stack_.back().kind != Kind::kDict) return Refuse("needs a dictionary");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PickledTensor>> Machine::Result() {
  if (stack_.size() != 1 || stack_[0].kind != Kind::kDict) {
    return Refuse("its pickle is not a dictionary of tensors");
  }
  std::vector<PickledTensor> result;
  if (dicts_[stack_[0].number].size() > static_cast<size_t>(kTensorsPerFileMax)) {
    return Refuse(absl::StrCat("holds more than ", kTensorsPerFileMax, " tensors"));
  }
  for (const auto& [key, value] : dicts_[stack_[0].number]) {
    if (key.kind != Kind::kText) return Refuse("its dictionary has a key that is no text");
    const std::string name(texts_[key.number]);
    QD_RETURN_IF_ERROR(CheckTensorName(name));
    if (value.kind != Kind::kTensor) {
      return Refuse(absl::StrCat("its entry ", Quoted(name),
                                 " is no tensor; a plain state "
                                 "dictionary has nothing else"));
    }
    result.push_back(tensors_[value.number]);
    result.back().name = name;
  }
  return result;
}

}  // namespace

absl::StatusOr<std::vector<PickledTensor>> ReadStateDict(absl::string_view pickle) {
  return Machine(pickle).Run();
}

}  // namespace quantd::engine

// Documents to prompts to answers to scores, in parts that survive a kill.
#include "workers/engine/evaluation/row_task.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "kernels/parallel.h"
#include "workers/engine/evaluation/documents.h"
#include "workers/engine/evaluation/generator.h"
#include "workers/engine/evaluation/parts.h"
#include "workers/engine/evaluation/requests.h"
#include "workers/engine/evaluation/scoring.h"

namespace quantd::engine {
namespace {

using nlohmann::json;

// Documents between two checkpoints: seconds of work on a CPU, or where answers are generated,
constexpr int64_t kDocumentsPerPart = 32;
// and where a GPU only scores: batches of equal lengths are then large enough to occupy it.
constexpr int64_t kDocumentsPerPartScored = 1024;
// GSM8K's training file is 4 MB, SQuAD's 40.
constexpr int64_t kDataBytesMax = int64_t{1} << 30;
// Of a prompt's SHA-256, in its sample: enough to tell prompts apart.
constexpr size_t kDigestCharacters = 16;

struct Loaded {
  std::vector<json> documents, pool;
  std::vector<std::string> prompts;
  std::string digest;  // Of both files.
  PromptSettings settings;
  int tokens_max = 0;
};

absl::StatusOr<std::vector<json>> ReadDocuments(const TaskRow& row, const std::string& path,
                                                std::string* digest) {
  QD_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kDataBytesMax));
  digest->append(Sha256Hex(text));
  return ParseTaskDocuments(row.documents, text, path);
}

absl::StatusOr<Loaded> Load(const TaskContext& context) {
  const TaskRow& row = *context.row;
  Loaded loaded;
  QD_ASSIGN_OR_RETURN(loaded.documents, ReadDocuments(row, context.data_path, &loaded.digest));
  const int few_shot = context.options["num_fewshot"].get<int>();
  loaded.settings.few_shot = few_shot < 0 ? row.few_shot : few_shot;
  loaded.settings.few_shot_seed = context.options["fewshot_seed"].get<uint32_t>();
  loaded.settings.system = context.options["system"];
  if (context.options["chat_template"].get<bool>()) {
    QD_ASSIGN_OR_RETURN(loaded.settings.chat, LoadChatTemplate(context.model.folder));
  } else if (!loaded.settings.system.empty()) {
    return absl::InvalidArgumentError("option \"system\" goes with \"chat_template\"");
  }
  const bool too_many =
      context.limit > 0 && loaded.documents.size() > static_cast<size_t>(context.limit);
  if (loaded.settings.few_shot > 0 && context.few_shot_path.empty()) {
    loaded.pool = loaded.documents;
  } else if (loaded.settings.few_shot > 0) {
    QD_ASSIGN_OR_RETURN(loaded.pool, ReadDocuments(row, context.few_shot_path, &loaded.digest));
  }
  if (too_many) loaded.documents.resize(static_cast<size_t>(context.limit));
  const bool own = context.few_shot_path.empty();
  QD_ASSIGN_OR_RETURN(loaded.prompts,
                      RenderPrompts(row, loaded.settings, loaded.documents, loaded.pool, own));
  const int tokens = context.options["max_tokens"].get<int>();
  loaded.tokens_max = tokens > 0 ? tokens : row.max_tokens;
  return loaded;
}

// Calls `work` for 0 ... count - 1, on several threads; the first one's error is the result.
absl::Status ForEachDocument(size_t count, const std::function<absl::Status(size_t)>& work) {
  // Encoding a document's texts takes a tenth of a millisecond and more.
  constexpr int64_t kOperations = 1 << 19;
  std::vector<absl::Status> statuses(count);
  const auto rows = static_cast<int64_t>(count);
  kernels::ParallelRows(rows, rows * kOperations, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      statuses[static_cast<size_t>(i)] = work(static_cast<size_t>(i));
    }
  });
  for (const absl::Status& status : statuses) QD_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// The answers to documents first ... last - 1.
class Asker {
 public:
  Asker(TaskContext& context, const Loaded& loaded, Scorer& scorer)
      : context_(context),
        loaded_(loaded),
        scorer_(scorer),
        bos_(context.options["bos"].get<std::string>()) {}

  absl::StatusOr<std::vector<Answer>> Ask(size_t first, size_t last,
                                          const std::function<void(int64_t)>& on_progress) {
    std::vector<Answer> answers(last - first);
    QD_RETURN_IF_ERROR(Score(first, last, &answers, on_progress));
    if (context_.row->generate) QD_RETURN_IF_ERROR(Generate(first, last, &answers, on_progress));
    return answers;
  }

 private:
  absl::Status Score(size_t first, size_t last, std::vector<Answer>* answers,
                     const std::function<void(int64_t)>& on_progress) {
    std::vector<std::vector<Sequence>> encoded(last - first);
    QD_RETURN_IF_ERROR(ForEachDocument(encoded.size(), [&](size_t i) -> absl::Status {
      const json& document = loaded_.documents[first + i];
      QD_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                          Continuations(*context_.row, loaded_.settings.chat.has_value(), document),
                          "document ", document["id"].dump());
      QD_ASSIGN_OR_RETURN(encoded[i],
                          ScoredSequences(context_.model, bos_, loaded_.prompts[first + i], texts));
      return absl::OkStatus();
    }));
    std::vector<Sequence> sequences;
    std::vector<std::pair<size_t, size_t>> places;  // Of each: the answer, and which of its texts.
    const auto count = static_cast<int64_t>(last - first);
    for (size_t i = 0; i < encoded.size(); ++i) {
      // What cannot be scored stays not a number.
      (*answers)[i].log_probs.assign(encoded[i].size(), std::nan(""));
      for (size_t k = 0; k < encoded[i].size(); ++k) {
        if (encoded[i][k].scored == 0) continue;
        sequences.push_back(std::move(encoded[i][k]));
        // A document's first has nothing in common with the document before.
        if (places.empty() || places.back().first != i) sequences.back().shared = 0;
        places.emplace_back(i, k);
      }
    }
    if (sequences.empty()) return absl::OkStatus();
    QD_ASSIGN_OR_RETURN(const std::vector<quantd::engine::Score> scores,
                        scorer_.Run(sequences, [&](int64_t done) {
                          if (!context_.row->generate) {
                            on_progress(done * count / static_cast<int64_t>(sequences.size()));
                          }
                        }));
    for (size_t i = 0; i < scores.size(); ++i) {
      (*answers)[places[i].first].log_probs[places[i].second] = scores[i].log_prob;
    }
    return absl::OkStatus();
  }

  absl::Status Generate(size_t first, size_t last, std::vector<Answer>* answers,
                        const std::function<void(int64_t)>& on_progress) {
    const int64_t positions = context_.model.PositionsMax();
    // Room for the answer: what is too long loses its beginning.
    const int64_t room = positions > 0 ? positions - loaded_.tokens_max : INT64_MAX;
    if (room < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("answers of ", loaded_.tokens_max, " tokens leave no room for a prompt in ",
                       positions, " positions; lower the option \"max_tokens\""));
    }
    std::vector<GenerationRequest> requests(last - first);
    QD_RETURN_IF_ERROR(ForEachDocument(requests.size(), [&](size_t i) -> absl::Status {
      GenerationRequest& request = requests[i];
      request = {.until = context_.row->until, .tokens_max = loaded_.tokens_max};
      QD_ASSIGN_OR_RETURN(request.ids,
                          EncodePrompt(context_.model, bos_, loaded_.prompts[first + i]));
      if (static_cast<int64_t>(request.ids.size()) > room) {
        request.ids.erase(request.ids.begin(), request.ids.end() - room);
      }
      if (request.ids.empty()) {
        return absl::InvalidArgumentError(absl::StrCat(
            "document ", loaded_.documents[first + i]["id"].dump(), " has an empty prompt"));
      }
      return absl::OkStatus();
    }));
    QD_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                        GenerateTexts(context_.job, scorer_, requests, on_progress));
    for (size_t i = 0; i < texts.size(); ++i) (*answers)[i].output = texts[i];
    return absl::OkStatus();
  }

  TaskContext& context_;
  const Loaded& loaded_;
  Scorer& scorer_;
  const std::string bos_;
};

absl::StatusOr<json> Judge(const TaskRow& row, const json& document, const Answer& answer) {
  json sample = {{"id", document["id"]}};
  if (row.generate) sample["output"] = answer.output;
  if (!answer.log_probs.empty()) {
    json& shown = sample["logProbs"] = json::array();
    for (const double value : answer.log_probs) shown.push_back(FiniteOrNull(value));
  }
  QD_RETURN_IF_ERROR(row.scoring->score(row, document, answer, &sample), "document ",
                     document["id"].dump());
  return sample;
}

// Metrics and samples with the task's key before the metrics' names.
TaskResult Finish(const TaskRow& row, const std::string& key, std::vector<json> samples,
                  const json& common) {
  MetricTable table = json::object();
  row.scoring->aggregate(row, samples, &table);
  TaskResult result;
  for (auto& [name, metric] : table.items()) {
    json& entry = result.metrics[absl::StrCat(key, "/", name)] = metric;
    entry.update(common);
    entry["value"] = FiniteOrNull(NumberOrNan(metric["value"]));
  }
  for (json& sample : samples) {
    json scores = json::object();
    for (const auto& [name, score] : sample["scores"].items()) {
      scores[absl::StrCat(key, "/", name)] = score;
    }
    sample["scores"] = std::move(scores);
  }
  result.samples = std::move(samples);
  return result;
}

std::string Protocol(const TaskContext& context, const Loaded& loaded) {
  const TaskRow& row = *context.row;
  std::string text = absl::StrCat(
      row.protocol.empty() ? absl::StrCat("own task ", row.digest.substr(0, 12)) : row.protocol,
      " data=sha256:", loaded.digest.substr(0, 12), " samples=", loaded.documents.size(), " ",
      loaded.settings.few_shot, "-shot bos=", context.options["bos"].get<std::string>());
  if (loaded.settings.few_shot > 0) {
    absl::StrAppend(&text, " seed=", loaded.settings.few_shot_seed);
  }
  if (loaded.settings.chat) {
    absl::StrAppend(&text, " chat_template=", loaded.settings.chat->digest.substr(0, 12));
    if (!loaded.settings.system.empty()) {
      absl::StrAppend(&text, " system=", Sha256Hex(loaded.settings.system).substr(0, 12));
    }
  }
  if (row.generate) absl::StrAppend(&text, " greedy max_tokens=", loaded.tokens_max);
  absl::StrAppend(&text, " max_length=", context.model.PositionsMax(),
                  " softmax=float32 dtype=", context.model.DtypeName());
  return text;
}

absl::StatusOr<TaskResult> Run(TaskContext& context) {
  const TaskRow& row = *context.row;
  const std::string phase = absl::StrCat("evaluate ", context.key);
  QD_ASSIGN_OR_RETURN(const Loaded loaded, Load(context));
  Scorer scorer(context.job, context.model, context.batch_size);
  Asker asker(context, loaded, scorer);
  const auto total = static_cast<int64_t>(loaded.documents.size());
  const auto compute = [&](int64_t first, int64_t last) -> absl::StatusOr<std::vector<json>> {
    const auto begin = static_cast<size_t>(first), end = static_cast<size_t>(last);
    QD_ASSIGN_OR_RETURN(const std::vector<Answer> answers, asker.Ask(begin, end, [&](int64_t done) {
      context.job.events.Progress({phase, first + done, total, "sample"});
    }));
    std::vector<json> samples(end - begin);
    QD_RETURN_IF_ERROR(ForEachDocument(samples.size(), [&](size_t i) -> absl::Status {
      QD_ASSIGN_OR_RETURN(samples[i], Judge(row, loaded.documents[begin + i], answers[i]));
      samples[i]["promptDigest"] =
          Sha256Hex(loaded.prompts[begin + i]).substr(0, kDigestCharacters);
      return absl::OkStatus();
    }));
    return samples;
  };
  const bool scored_on_gpu = !row.generate && !context.model.model->decoder().device().is_cpu();
  const int64_t per_part = scored_on_gpu ? kDocumentsPerPartScored : kDocumentsPerPart;
  const std::string main = MetricNames(row)[0];
  const auto on_part = [&](int64_t done, const std::vector<json>& samples) {
    context.job.events.Progress({phase, done, total, "sample"});
    // Metrics with their errors cost as much for a part as for all: they come twenty times.
    const auto twentieth = [&](int64_t documents) { return 20 * documents / total; };
    if (done == total || twentieth(done) == twentieth(done - per_part)) return;
    MetricTable running = json::object();
    row.scoring->aggregate(row, samples, &running);
    if (!running.contains(main)) return;
    context.job.events.Metric(absl::StrCat(context.key, "/", main),
                              NumberOrNan(running[main]["value"]), "", {{"partial", "true"}});
  };
  // A part is told from one of another machine, which holds other documents.
  const std::string fingerprint = TaskFingerprint(
      context,
      absl::StrCat(loaded.digest, row.digest,
                   loaded.settings.chat ? loaded.settings.chat->digest : "", " ", per_part));
  QD_ASSIGN_OR_RETURN(std::vector<json> samples, RunParts(context.job,
                                                          {.name = context.key,
                                                           .fingerprint = fingerprint,
                                                           .items = total,
                                                           .items_per_part = per_part},
                                                          compute, on_part));
  return Finish(row, context.key, std::move(samples),
                {{"protocol", Protocol(context, loaded)}, {"dataDigest", loaded.digest}});
}

const std::vector<OptionInfo>& RowOptions() {
  static const auto& options = *new std::vector<OptionInfo>{
      {"bos",
       OptionType::kString,
       "tokenizer",
       {"tokenizer", "none", "always"},
       {},
       {},
       "Begin-of-text token before the prompt: as the tokenizer does by itself (harness >= "
       "0.4.9.2), "
       "never (before that), or always."},
      {"few_shot_data",
       OptionType::kString,
       "",
       {},
       {},
       {},
       "File that the worker can read, from which few-shot examples are drawn; empty: the data."},
      {"chat_template",
       OptionType::kBool,
       false,
       {},
       {},
       {},
       "The prompt as a user's message in the model's chat template."},
      {"fewshot_seed", OptionType::kInt, 1234, {}, 0, 4294967295.0, "Seed of the examples' draw."},
      {"max_tokens",
       OptionType::kInt,
       0,
       {},
       0,
       1 << 20,
       "Most tokens of an answer; 0: the task's."},
      {"num_fewshot",
       OptionType::kInt,
       -1,
       {},
       -1,
       1000,
       "Examples in the prompt; -1: the task's."},
      {"system", OptionType::kString, "", {}, {}, {}, "System message for the chat template."},
  };
  return options;
}

const char* const kPredictionFields[] = {"prediction", "output", "prediction_text", "answer"};

// Adds one prediction object; its id may be CoQA's pair of id and turn.
absl::Status AddPrediction(const json& entry, std::map<std::string, Answer>* answers) {
  if (!entry.is_object() || !entry.contains("id")) {
    return absl::DataLossError("a prediction must be an object with an \"id\"");
  }
  std::string id = entry["id"].is_string() ? entry["id"].get<std::string>() : entry["id"].dump();
  if (entry.contains("turn_id")) absl::StrAppend(&id, "/", entry["turn_id"].dump());
  for (const char* field : kPredictionFields) {
    if (!entry.contains(field) || !entry[field].is_string()) continue;
    Answer& answer = (*answers)[id];
    answer.output = entry[field];
    const json probability = entry.value("no_answer_probability", json());
    if (probability.is_number()) answer.log_probs = {std::log(probability.get<double>())};
    return absl::OkStatus();
  }
  return absl::DataLossError(
      absl::StrCat("prediction ", id, " has none of prediction, output, prediction_text, answer"));
}

absl::StatusOr<std::map<std::string, Answer>> ParsePredictions(absl::string_view text) {
  std::map<std::string, Answer> answers;
  const json whole = json::parse(text, nullptr, false);
  if (whole.is_object() && !whole.contains("id")) {
    for (const auto& [id, output] : whole.items()) {
      if (!output.is_string()) {
        return absl::DataLossError(absl::StrCat("the prediction of ", id, " is no text"));
      }
      answers[id].output = output;
    }
    return answers;
  }
  QD_ASSIGN_OR_RETURN(const std::vector<json> entries,
                      ParseTaskDocuments("rows", text, "predictions"));
  for (const json& entry : entries) QD_RETURN_IF_ERROR(AddPrediction(entry, &answers));
  return answers;
}

}  // namespace

Task MakeRowTask(std::shared_ptr<const TaskRow> row) {
  Task task;
  task.name = row->name;
  task.aliases = row->aliases;
  task.summary = row->summary.empty() ? "A task of the user's own." : row->summary;
  task.options = RowOptions();
  task.metrics = MetricNames(*row);
  task.needs_data = row->data.empty();
  task.run = Run;
  task.row = std::move(row);
  return task;
}

const Task& OwnTask() {
  static const Task& task = *[] {
    auto* own = new Task{.name = kOwnTask,
                         .aliases = {},
                         .summary = "A task of the user's own, in YAML (docs/evaluation.md).",
                         .options = RowOptions(),
                         .metrics = {"acc", "exact_match", "f1"},
                         .needs_data = false,
                         .run = [](TaskContext&) -> absl::StatusOr<TaskResult> {
                           return absl::InternalError("task own runs by its definition");
                         },
                         .row = nullptr};
    own->options.push_back(
        {"definition", OptionType::kString, "", {}, {}, {}, "The task's YAML text."});
    return own;
  }();
  return task;
}

absl::StatusOr<TaskResult> ScorePredictions(const TaskRow& row, const std::string& key,
                                            const std::vector<json>& documents,
                                            absl::string_view predictions) {
  if (!row.generate) {
    return absl::InvalidArgumentError(absl::StrCat(
        "task ", row.name, " scores log-likelihoods of choices; predictions are generated texts"));
  }
  QD_ASSIGN_OR_RETURN(const auto answers, ParsePredictions(predictions));
  std::vector<json> samples;
  int64_t missing = 0;
  for (const json& document : documents) {
    const auto found = answers.find(document["id"].get<std::string>());
    if (found == answers.end()) {
      ++missing;
      continue;
    }
    QD_ASSIGN_OR_RETURN(samples.emplace_back(), Judge(row, document, found->second));
  }
  if (samples.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("none of the ", documents.size(), " documents has a prediction"));
  }
  return Finish(row, key, std::move(samples),
                {{"protocol", absl::StrCat(row.protocol, " predictions made elsewhere")},
                 {"missing", missing}});
}

}  // namespace quantd::engine

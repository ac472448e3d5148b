// The ways to score that have a file of their own; scoring.cc puts them into the table.
#pragma once

#include "workers/engine/evaluation/scoring.h"

namespace quantd::engine {

// SQuAD 2.0 as its script and lm-evaluation-harness score it: exact, f1, HasAns_*, NoAns_*, best_*,
// out of 100. An unanswerable question is right only where the output is empty.
const Scoring& SquadScoring();
// The same, but an output that says "unanswerable" is no answer.
const Scoring& SquadAbstainScoring();
// CoQA: em and f1 against several answers, each left out once.
const Scoring& CoqaScoring();
const Scoring& CoqaTurnScoring();
// Final answers of mathematics: exact_match, mean_abs_diff, median_abs_diff, parse_rate.
const Scoring& MathScoring();

}  // namespace quantd::engine

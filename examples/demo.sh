#!/usr/bin/env bash
# Merges the committed networks (examples/vision/README.md says what they are) and prints the accuracies.
#
#     bash examples/demo.sh [BUILD_DIRECTORY]      (default: build/ inside the checkout)
#
# Installs what is missing, builds the program, then for each method: merges with every setting of a grid, takes the
# one that is best on the validation split, and measures that one on the test split; two more rows compare at the
# paper's alpha of 0.4, without choosing. Everything that is printed is
# computed in this run. Merged networks are left in BUILD_DIRECTORY/demo.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
build="${1:-$root/build}"
. "$root/cmake/setup.sh"
catmerge_install build
tests=()
[ -f "$build/CMakeCache.txt" ] || tests=(-DCATMERGE_TESTS=OFF)
catmerge_configure "$build" --log-level=WARNING -DCMAKE_BUILD_TYPE=Release "${tests[@]}"
echo "Building the program ..."
cmake --build "$build" --parallel "$(catmerge_jobs)" --target catmerge_cli > "$build/demo-build.log" || {
  cat "$build/demo-build.log" >&2
  exit 1
}
catmerge="$build/examples/harness/catmerge"
family="$root/examples/vision/family"
out="$build/demo"
rm -rf "$out"
mkdir -p "$out"

samples=3                       # unlabeled samples per task
alphas="0.15 0.2 0.25 0.3 0.35 0.4 0.5"
lambdas="1 2 5"
ranks="1 2 4"

tasks=()
experts=()
features=()
for file in "$family"/experts/*.safetensors; do
  task="$(basename "$file" .safetensors)"
  tasks+=("$task")
  experts+=(--expert "$task=$file")
  features+=(--features "$task=$out/features/$task.safetensors")
done

# accuracy MODEL TASK SPLIT
accuracy() {
  "$catmerge" evaluate --model "$1" --config "$family/base/config.json" --data "$family/$3/$2.safetensors" \
    --head "$family/heads/$2.safetensors" | tail -n 1
}

# accuracies MODEL SPLIT: one per task, then their mean
accuracies() {
  local task
  for task in "${tasks[@]}"; do accuracy "$1" "$task" "$2"; done |
    awk '{ printf "%s ", $1; sum += $1 } END { printf "%.2f\n", sum / NR }'
}

# merge OUTPUT OPTION...
merge() {
  local output="$1"
  shift
  "$catmerge" merge --base "$family/base" "${experts[@]}" --output "$output" "$@"
}

row() {
  local label="$1" value
  shift
  printf '| %-36s |' "$label"
  for value in "$@"; do printf ' %10s |' "$value"; done
  printf '\n'
}

# best NAME LABEL OPTION...  Reads settings (options, one combination a line) and reports the best on validation.
best() {
  local name="$1" label="$2" best_mean=-1 best_setting="" setting mean
  shift 2
  while read -r setting; do
    # shellcheck disable=SC2086
    merge "$out/trial.safetensors" "$@" $setting
    mean="$(accuracies "$out/trial.safetensors" validation | awk '{ print $NF }')"
    echo "$name $setting: validation $mean" >> "$out/validation.log"
    if awk "BEGIN { exit !($mean > $best_mean) }"; then
      best_mean="$mean"
      best_setting="$setting"
      mv "$out/trial.safetensors" "$out/$name.safetensors"
    fi
  done
  # shellcheck disable=SC2046
  row "$label" $(accuracies "$out/$name.safetensors" test)
  chosen+=("$label: $best_setting (validation $best_mean)")
}

mkdir "$out/features"
for task in "${tasks[@]}"; do
  "$catmerge" features --model "$family/experts/$task.safetensors" --config "$family/base/config.json" \
    --samples "$family/samples/$task.safetensors" --sample-count "$samples" --output "$out/features/$task.safetensors"
done

chosen=()
echo
echo "Top-1 accuracy in percent on the test split, $samples unlabeled samples per task for CAT:"
echo
row "" "${tasks[@]}" average
printf '|%s' "--------------------------------------"
for _ in "${tasks[@]}" average; do printf '|%s' "------------"; done
printf '|\n'
# shellcheck disable=SC2046
row "base, not merged" $(accuracies "$family/base" test)
single=()
for task in "${tasks[@]}"; do single+=("$(accuracy "$family/experts/$task.safetensors" "$task" test)"); done
row "each task's own expert" "${single[@]}" "$(printf '%s\n' "${single[@]}" | awk '{ s += $1 } END { printf "%.2f", s / NR }')"
merge "$out/average.safetensors" --method average
# shellcheck disable=SC2046
row "weight averaging" $(accuracies "$out/average.safetensors" test)
# fixed NAME LABEL OPTION...: one setting, not chosen
fixed() {
  local name="$1" label="$2"
  shift 2
  merge "$out/$name.safetensors" "$@"
  # shellcheck disable=SC2046
  row "$label" $(accuracies "$out/$name.safetensors" test)
}
fixed task-arithmetic-0.4 "Task Arithmetic, alpha 0.4" --method task-arithmetic --alpha 0.4
fixed cat-0.4 "CAT, the paper's settings, alpha 0.4" "${features[@]}" --report "$out/cat-report.json"
best task-arithmetic "Task Arithmetic, alpha chosen" --method task-arithmetic \
  < <(for a in $alphas; do echo "--alpha $a"; done)
best cat-alpha "CAT, alpha chosen" "${features[@]}" \
  < <(for a in $alphas; do echo "--alpha $a"; done)
best cat "CAT, alpha, lambda and rank chosen" "${features[@]}" \
  < <(for l in $lambdas; do for r in $ranks; do for a in $alphas; do echo "--alpha $a --lambda $l --rank $r"; done; done; done)

echo
echo "Chosen on the validation split, whose images are others than the test split's:"
printf '  %s\n' "${chosen[@]}"
echo
echo "Merged networks: $out/*.safetensors (any safetensors reader opens them);"
echo "what the merge with the paper's settings did to each parameter: $out/cat-report.json;"
echo "all validation results: $out/validation.log"

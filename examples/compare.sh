#!/usr/bin/env bash
# Merges the experts of a family by each method, and prints a table of what comes out.
#
#     bash examples/compare.sh FAMILY [BUILD_DIRECTORY [MERGE OPTION...]]      (default: build/ inside the checkout)
#     bash examples/compare.sh examples/text/family build --drop 'lm_head.*' --task-heads 'classifier.*'
#
# FAMILY holds base/, experts/TASK.safetensors and per task samples/, validation/ and test/TASK.safetensors; heads in
# heads/TASK.safetensors, or in the experts. A data file's metadata may say by which metric its task is measured
# (accuracy if it does not). The merge options are for what base and experts do not have in common.
#
# For each method: merges with every setting of a grid (ALPHAS, LAMBDAS and RANKS in the environment replace it), takes
# the one that is best on the validation split, and measures that one on the test split; two more rows compare at the
# paper's alpha of 0.4, without choosing. Everything that is printed is computed in this run. Merged networks are left in
# BUILD_DIRECTORY/compare.
set -euo pipefail
shopt -s inherit_errexit  # a command that fails inside $(...) ends the script, too

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
family="${1:?usage: bash examples/compare.sh FAMILY [BUILD_DIRECTORY [MERGE OPTION...]]}"
build="${2:-$root/build}"
policy=("${@:3}")
catmerge="$build/examples/harness/catmerge"
[ -x "$catmerge" ] || { echo "error: there is no $catmerge: build it first (bash examples/demo.sh does)" >&2; exit 1; }
name="$(realpath "$family")"
name="${name%/family}"  # vision/family is called vision
out="$build/compare/${name##*/}"
rm -rf "$out"
mkdir -p "$out"

samples=3                       # unlabeled samples per task
alphas="${ALPHAS:-0.15 0.2 0.25 0.3 0.35 0.4 0.5}"
lambdas="${LAMBDAS:-1 2 5}"
ranks="${RANKS:-1 2 4}"

tasks=()
experts=()
features=()
declare -A metric head
for file in "$family"/experts/*.safetensors; do
  task="$(basename "$file" .safetensors)"
  tasks+=("$task")
  experts+=(--expert "$task=$file")
  features+=(--features "$task=$out/features/$task.safetensors")
  head[$task]="$family/heads/$task.safetensors"
  [ -e "${head[$task]}" ] || head[$task]="$file"
  metric[$task]="$("$catmerge" inspect "$family/test/$task.safetensors" | sed -n 's/^  metadata metric: //p')"
  [ -n "${metric[$task]}" ] || metric[$task]=accuracy
done
for option in "${policy[@]}"; do
  [ "$option" != --task-heads ] || policy+=(--heads-output "$out/heads" --overwrite)
done

# measure MODEL TASK SPLIT
measure() {
  "$catmerge" evaluate --model "$1" --config "$family/base/config.json" --data "$family/$3/$2.safetensors" \
    --head "${head[$2]}" --metric "${metric[$2]}" | tail -n 1
}

# measures MODEL SPLIT: one per task, then their mean
measures() {
  local task value values=()
  for task in "${tasks[@]}"; do
    value="$(measure "$1" "$task" "$2")"
    values+=("$value")
  done
  printf '%s\n' "${values[@]}" | awk '{ printf "%s ", $1; sum += $1 } END { printf "%.2f\n", sum / NR }'
}

# merge OUTPUT OPTION...
merge() {
  local output="$1"
  shift
  rm -f "$output"
  "$catmerge" merge --base "$family/base" "${experts[@]}" --output "$output" "${policy[@]}" "$@"
}

# row LABEL VALUE...; row_of LABEL MODEL measures it on the test split
row() {
  local label="$1" value
  shift
  printf '| %-36s |' "$label"
  for value in "$@"; do printf ' %10s |' "$value"; done
  printf '\n'
}

row_of() {
  local values
  values="$(measures "$2" test)"
  # shellcheck disable=SC2086
  row "$1" $values
}

# best NAME LABEL OPTION...  Reads settings (options, one combination a line) and reports the best on validation.
best() {
  local name="$1" label="$2" best_mean=-1000 best_setting="" setting mean
  shift 2
  while read -r setting; do
    # shellcheck disable=SC2086
    merge "$out/trial.safetensors" "$@" $setting
    mean="$(measures "$out/trial.safetensors" validation)"
    mean="${mean##* }"
    echo "$name $setting: validation $mean" >> "$out/validation.log"
    if awk "BEGIN { exit !($mean > $best_mean) }"; then
      best_mean="$mean"
      best_setting="$setting"
      mv "$out/trial.safetensors" "$out/$name.safetensors"
    fi
  done
  row_of "$label" "$out/$name.safetensors"
  chosen+=("$label: $best_setting (validation $best_mean)")
}

# fixed NAME LABEL OPTION...: one setting, not chosen
fixed() {
  local name="$1" label="$2"
  shift 2
  merge "$out/$name.safetensors" "$@"
  row_of "$label" "$out/$name.safetensors"
}

mkdir "$out/features"
for task in "${tasks[@]}"; do
  "$catmerge" features --model "$family/experts/$task.safetensors" --config "$family/base/config.json" \
    --samples "$family/samples/$task.safetensors" --sample-count "$samples" --output "$out/features/$task.safetensors"
done

chosen=()
titles=()
for task in "${tasks[@]}"; do
  if [ "${metric[$task]}" = accuracy ]; then titles+=("$task"); else titles+=("$task*"); other=yes; fi
done
row "" "${titles[@]}" average
printf '|%s' "--------------------------------------"
for _ in "${tasks[@]}" average; do printf '|%s' "------------"; done
printf '|\n'
row_of "base, not merged" "$family/base"
single=()
for task in "${tasks[@]}"; do
  value="$(measure "$family/experts/$task.safetensors" "$task" test)"
  single+=("$value")
done
row "each task's own expert" "${single[@]}" "$(printf '%s\n' "${single[@]}" | awk '{ s += $1 } END { printf "%.2f", s / NR }')"
fixed average "weight averaging" --method average
fixed task-arithmetic-0.4 "Task Arithmetic, alpha 0.4" --method task-arithmetic --alpha 0.4
fixed cat-0.4 "CAT, the paper's settings, alpha 0.4" "${features[@]}" --report "$out/cat-report.json"
best task-arithmetic "Task Arithmetic, alpha chosen" --method task-arithmetic \
  < <(for a in $alphas; do echo "--alpha $a"; done)
best cat-alpha "CAT, alpha chosen" "${features[@]}" \
  < <(for a in $alphas; do echo "--alpha $a"; done)
best cat "CAT, alpha, lambda and rank chosen" "${features[@]}" \
  < <(for l in $lambdas; do for r in $ranks; do for a in $alphas; do echo "--alpha $a --lambda $l --rank $r"; done; done; done)

echo
for task in "${tasks[@]}"; do
  [ "${metric[$task]}" = accuracy ] || echo "* $task: ${metric[$task]}, times 100."
done
[ -z "${other:-}" ] || echo
echo "Chosen on the validation split, which shares nothing with the test split:"
printf '  %s\n' "${chosen[@]}"
echo
echo "Merged networks: $out/*.safetensors (any safetensors reader opens them);"
echo "what the merge with the paper's settings did to each parameter: $out/cat-report.json;"
echo "all validation results: $out/validation.log"

#!/usr/bin/env bash
# The GitHub Action's step, run as a runner runs it: parity_action.sh RECAST FIXTURES
set -euo pipefail
recast="$(realpath "$1")" fixtures="$(realpath "$2")"
cd "$(dirname "$0")/../.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/bin"
ln -s "$recast" "$scratch/bin/recast"
export PATH="$scratch/bin:$PATH" RUNNER_TEMP="$scratch" GITHUB_STEP_SUMMARY="$scratch/summary" GITHUB_OUTPUT="$scratch/output"
export PACKAGE='' POLICY='' TOKENS='' ARGUMENTS='' REFERENCE="$fixtures/tiny-deepseek-v3-fp8"

recast convert "$REFERENCE" "$scratch/bf16" --to bf16 --quiet >/dev/null
recast convert "$REFERENCE" "$scratch/int4" --to int4-g32 --quiet >/dev/null

step() { : >"$GITHUB_STEP_SUMMARY"; : >"$GITHUB_OUTPUT"; status=0; said="$(bash .github/actions/parity/verify.sh 2>&1)" || status=$?; }
check() { if ! eval "$2"; then echo "FAILED: $1"; echo "$said"; cat "$GITHUB_STEP_SUMMARY" "$GITHUB_OUTPUT"; exit 1; fi; }

CANDIDATE="$scratch/bf16" ARGUMENTS='--exact' step
check "an exact candidate passes" '[ $status = 0 ] && grep -q "^passed=true" "$GITHUB_OUTPUT" && grep -q "Parity: passed" "$GITHUB_STEP_SUMMARY"'
check "there is a report" 'python3 -c "import json, sys; assert json.load(open(sys.argv[1]))[\"passed\"]" "$(sed -n s/^report=//p "$GITHUB_OUTPUT")"'
CANDIDATE="$scratch/int4" ARGUMENTS='--exact' step
check "another one fails and says so" '[ $status = 1 ] && grep -q "^passed=false" "$GITHUB_OUTPUT" && grep -q "FAILED" "$GITHUB_STEP_SUMMARY" && grep -q "^::error title=" <<<"$said"'
CANDIDATE="$scratch/none" ARGUMENTS='' step
check "one that is not there is an error" '[ $status = 66 ] && grep -q "^::error title=recast verify ended with 66::" <<<"$said"'
CANDIDATE="$scratch/int4" ARGUMENTS='' TOKENS="$fixtures/tokens-short.json" step
check "tokens are passed on" '[ $status = 0 ] && grep -q "KLD" "$GITHUB_STEP_SUMMARY"'
echo "the action passes what is equal, fails what is not, and says which"

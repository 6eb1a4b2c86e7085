python := ".venv/bin/python"

# list the recipes
default:
    @just --list

# a virtual environment with everything the tests need
setup:
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'

# format, and mend what the linter can
fix:
    {{python}} -m ruff check --fix . ; {{python}} -m ruff format .

# formatting, lint, types (of the installed package, outside the checkout)
check:
    {{python}} -m ruff check . && {{python}} -m ruff format --check . && {{python}} tests/check_types.py

# the tests, in parallel
test *ARGS:
    {{python}} -m pytest -q -n auto {{ARGS}}

# the compiled kernels as plain Python: index errors and wrong types show here
test-nojit:
    NUMBA_DISABLE_JIT=1 {{python}} -m pytest -q -n auto -W "ignore:overflow:RuntimeWarning" tests/simulator/compiled/test_stack.py tests/simulator/compiled/test_stack_tokens.py tests/simulator/compiled/test_stack_singles.py tests/simulator/compiled/test_lru_places.py tests/simulator/compiled/test_in_lanes.py tests/simulator/compiled/test_stack_runs.py tests/simulator/time/test_compiled.py tests/simulator/time/test_compiled_events.py tests/simulator/time/test_compute_alone.py tests/simulator/time/test_drawn_events.py tests/simulator/time/test_naive_time.py tests/simulator/time/test_scenarios*.py -k "not many_experts and not without_the_compiler"

# N small faults in one module, each in a copy: which of them do the tests that mirror it not see?
mutants MODULE *ARGS:
    {{python}} tests/mutants.py {{MODULE}} {{ARGS}}

# N mutated files of every format that lrcsim reads: each must be read or refused in one line
soak N="100000" SEED="0":
    {{python}} tests/fuzz/fuzz_driver.py {{N}} {{SEED}}

# vLLM itself and SGLang's front, against transformers: real-servers [vllm|sglang] [--write]; 6 GB, see tests/real_servers
real-servers *ARGS:
    {{python}} tests/real_servers/run.py {{ARGS}}

# one question of benchmarks/; without a name, list them
bench NAME="":
    @if [ -z "{{NAME}}" ]; then ls benchmarks/bench_*.py; else {{python}} benchmarks/bench_{{NAME}}.py; fi

# before a change of code that is to change no number: just freeze write FILE; after it: just freeze check FILE
freeze ACTION FILE *ARGS:
    {{python}} benchmarks/freeze.py {{ACTION}} {{FILE}} {{ARGS}}

# the documentation site, at the address it prints
docs:
    {{python}} -m mkdocs serve

# write the outputs of the examples and of the tutorial anew, after a change of results that is meant
outputs:
    {{python}} tests/examples/test_examples.py --write && {{python}} tests/examples/test_notebook.py --write && {{python}} tests/docs/shown.py --write

# throw compiled kernels away: needed after a change in a function that another module's kernel calls
clean:
    find . -name "*.nb[ic]" -not -path "./.venv/*" -delete

# all of CI in a fresh environment
ci:
    bash .ci/run

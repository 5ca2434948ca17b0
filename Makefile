# make demo    install, train three methods on the embedded data, print a table
# make test    install, run all tests
# make check   format, lint, types, fast tests
# make docs    the documentation as a site, in site/
# make bench   what mmlab costs, as ratios: some twelve minutes on two quiet cores
# make table   the README's tables and curves from the committed results
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: install demo test check docs bench table results

install: $(VENV)/installed

# uv resolves for the tested pins; plain pip may take a CPU-only torch that torchvision can't load. Bytecode is compiled
# at once: where Python may not write it (containers often say so), each start would compile torch anew, for 8 s.
$(VENV)/installed: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable '.[dev,video,text,hdf5,slurm,features,docs]'
	touch $@

demo: install
	@for method in joint_training late_fusion mnl; do \
		$(BIN)/mmlab fit --config experiments/$${method}_keypad.yaml --run_dir $(DEMO)/$$method --wandb.mode off || exit $$?; \
	done
	@echo
	@$(BIN)/mmlab compare $(DEMO)
	@echo
	@echo "learning curves: $(DEMO)/mnl/curves.png"

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup -m "not slow"

docs: install
	$(BIN)/mkdocs build --strict

bench: install
	$(BIN)/python benchmarks/bench.py

table: install
	$(BIN)/mmlab compare results
	$(BIN)/mmlab compare results --corruption gaussian --curves docs/gaussian.png

# Some 540 runs of a minute or two each on one core; finished ones are skipped.
results: install
	bash benchmarks/results.sh $(BIN)/mmlab

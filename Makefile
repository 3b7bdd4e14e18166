# Newcomers need two commands: `make app` and `make test`. Each makes its own virtual environment.
# Before a release: `make lock`, `make licences`, `make audit`.
PYTHON ?= python3
PORT ?= 8501

.PHONY: app test lint lock licences audit clean

app: .venv/installed
	.venv/bin/streamlit run streamlit_app/app.py --server.address localhost --server.port $(PORT)

test: .venv-test/installed
	.venv-test/bin/python -m pytest -n 3 --dist loadfile # a file stays on one worker, with its fixtures

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

# Locks the newest versions that requirements.txt allows, for all Pythons and machines. uv ignores an upper bound
# on Python; backports-strenum has one from 1.3 on, and pip refuses it.
lock: .venv-release/installed
	echo 'backports-strenum<1.3' | .venv-release/bin/uv pip compile --quiet --no-config --upgrade --universal \
		--python-version 3.11 --generate-hashes --custom-compile-command 'make lock' \
		--constraints - requirements.txt --output-file requirements.lock

# Fills the two tables of docs/LICENCES.md: all locked packages, and what training requires directly.
licences: .venv-release/installed .venv-locked/installed .venv-test/installed
	$(call fill_table,requirements.lock,--python .venv-locked/bin/python)
	$(call fill_table,training/requirements.txt,--python .venv-test/bin/python \
		--packages $$(sed -n 's/^\([a-zA-Z0-9][-_.a-zA-Z0-9]*\).*/\1/p' training/requirements.txt))

define fill_table
	.venv-release/bin/pip-licenses --no-version --format=markdown --fail-on=UNKNOWN --output-file=.venv-release/table $(2)
	sed -i -e '\|<!-- $(1): start -->|,/<!-- end -->/{/<!--/!d}' \
		-e '\|<!-- $(1): start -->|r .venv-release/table' docs/LICENCES.md
endef

# With --strict the audit fails if the advisory service does not know a package.
audit: .venv-release/installed
	.venv-release/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements.lock

clean:
	rm -rf .venv .venv-test .venv-release .venv-locked

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv-test/installed: requirements.txt requirements-bulk.txt training/requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install --quiet --disable-pip-version-check --no-compile -r tests/requirements.txt
	.venv-test/bin/python -m compileall -q -j 0 .venv-test/lib >$@.log || true # pip would use one core for it
	touch $@

.venv-release/installed: Makefile
	$(PYTHON) -m venv .venv-release
	.venv-release/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1 pip-licenses==5.5.5 uv==0.13.9
	touch $@

.venv-locked/installed: requirements.lock
	$(PYTHON) -m venv .venv-locked
	.venv-locked/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

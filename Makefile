# Two commands for newcomers: `make app` and `make test`. Each makes its own virtual environment.
PYTHON ?= python3
PORT ?= 8501

.PHONY: app test lint clean

app: .venv/installed
	.venv/bin/streamlit run streamlit_app/app.py --server.address localhost --server.port $(PORT)

test: .venv-test/installed
	.venv-test/bin/python -m pytest

lint: .venv-test/installed
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .

clean:
	rm -rf .venv .venv-test

.venv/installed: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv-test/installed: requirements.txt training/requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11 to 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

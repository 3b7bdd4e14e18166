# An exact tag: the Debian below it is still rebuilt under the same name. What a published image was built from
# stands in its provenance.
FROM python:3.12.15-slim-trixie AS packages
COPY requirements.lock /opt/
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python --disable-pip-version-check install --no-cache-dir --no-compile \
        --only-binary :all: --require-hashes --requirement /opt/requirements.lock \
    # test suites and notebook extensions: a seventh of it all
    && find /opt/venv -type d -name tests -prune -exec rm -r {} + \
    && rm -rf /opt/venv/etc /opt/venv/share /opt/venv/lib/python3.12/site-packages/pydeck/nbextension \
    && python -m compileall -q --invalidation-mode unchecked-hash /opt/venv

FROM python:3.12.15-slim-trixie
# The base image has no bytecode, and on a read-only file system none can be added: with all of it, packages and
# standard library, a start takes 2.0 s of CPU time up to the first verdict instead of 4.9. Nothing is installed
# from here on, so pip goes.
RUN pip uninstall --yes --quiet --root-user-action ignore pip \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3.12/ensurepip \
    && python -m compileall -q --invalidation-mode unchecked-hash /usr/local/lib/python3.12 \
    && useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin app
COPY --from=packages /opt/venv /opt/venv
# numpy starts as many threads as the host has cores, in each process, whatever a container is limited to.
ENV PATH=/opt/venv/bin:$PATH OPENBLAS_NUM_THREADS=1

WORKDIR /app
COPY models models
COPY LICENSE docs/LICENCES.md ./
COPY .streamlit .streamlit
COPY cxr cxr
COPY streamlit_app streamlit_app

USER 1000:1000
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
# Without an address to print, Streamlit asks a server on the internet for its own at every start.
CMD ["streamlit", "run", "streamlit_app/app.py", "--server.address=0.0.0.0", "--server.port=8501", \
    "--browser.serverAddress=localhost"]

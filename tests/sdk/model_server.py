"""llama.cpp's own server with a model of 135 million parameters: MODEL PORT KEY, until it is killed."""

import sys
import time

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.model_alias = {"smollm2"}
params.hostnames = ["127.0.0.1"]
params.port = int(sys.argv[2])
params.api_keys = [sys.argv[3]]
params.n_parallel = 2
params.n_ctx = 4096
params.cpuparams.n_threads = 1
params.ui = False
server = xllamacpp.Server(params)
while True:
    time.sleep(3600)

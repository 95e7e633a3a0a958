# edge-app: faces above 95% on a screen, from a laptop to a Jetson Nano. 'make help' lists what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON       ?= python3
PYTHON36     ?= $(shell for one in python3.6 $$HOME/.pyenv/versions/3.6.*/bin/python; do "$$one" -c '' 2>/dev/null && { command -v "$$one"; break; }; done)
DEMO_SECONDS ?= 20
SOAK_SECONDS ?= 3600
MODEL        ?= ssd_mobilenet_v2
SIZE         ?=
OUT          ?= runs/export
IN           ?= engines
WEIGHTS      ?= $(firstword $(wildcard runs/$(MODEL)/last.pt) training/weights/$(MODEL).npz)
DATA         ?= ../shared/data
# ImageNet weights that training starts from: torchvision's file, or what training/model.py also takes.
BACKBONE     ?= $(firstword $(wildcard $(addprefix $(DATA)/pretrained/,$(backbones))))
ARGS         ?=
# Tests: lanes at once, and processes in a lane (0: none besides pytest's own).
LANES        ?= 4
WORKERS      ?= 2
# Devices: HOSTS="nano-1 user@nano-2" or INVENTORY=fleet.yaml; the rest as deploy/README.md says.
HOSTS        ?=
INVENTORY    ?=
TARGETS      ?=
IMG          ?= out/edge-app-sd.img

run    := .venv/bin/python -m edge_app
needs  := deploy/requirements
tools   = .venv-deploy/bin/python
fleet   = $(tools) -m deploy.fleet
devices = $(HOSTS) $(if $(INVENTORY),--inventory $(INVENTORY)) $(if $(GROUP),--group $(GROUP))
careful = $(if $(CANARY),--canary $(CANARY)) $(if $(WAVE),--wave $(WAVE)) $(if $(MAX_FAIL),--max-fail $(MAX_FAIL)) $(if $(RELEASE),--release $(RELEASE))
boxes   = @mkdir -p build; flock build/tools.lock sh deploy/tools.sh "$(PYTHON)" .venv-deploy || [ -z "$$EDGE_APP_CI" ] && \
    PYTHON36="$(PYTHON36)" .venv/bin/python -m pytest
workers := -n $(WORKERS) --dist loadfile
as_root = $(if $(filter-out 0,$(shell id -u)),sudo)
backbones = $(if $(filter ssd_vgg16,$(MODEL)),vgg16*.pth vgg16.onnx vgg16.npz,$(if $(filter ssd_mobilenet_v2%,$(MODEL)),mobilenet_v2_imagenet.npz mobilenet_v2*.pth))
jetson := $(wildcard /etc/nv_tegra_release)
# What a program needs here: on a Jetson JetPack brings most of it, and Python 3.6 has pins of its own.
ifneq ($(jetson),)
app    := $(needs)/jetson$(if $(findstring 3.6.,$(shell $(PYTHON) --version 2>&1)),-py36).txt
else
app    := $(needs)/app.txt $(needs)/gstreamer.txt
endif

.PHONY: help setup demo run bench check test test-app test-nvidia test-boxes test-fleet test36 test-training train evaluate export \
    engine gpu-test soak release provision deploy status rollback logs image flash test-device clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: ## prepare .venv (demo and test do this themselves)
	@sh deploy/system-packages.sh run
	@sh deploy/venv.sh "$(PYTHON)" .venv $(app)
	@$(if $(jetson),sh deploy/pycuda.sh .venv)

demo: setup ## live boxes in a window (or on http://127.0.0.1:8080), a clip in out/demo.mp4; DEMO_SECONDS=20
	@mkdir -p out
	$(run) run --source $(if $(jetson),csi://0,test://) --display auto,file:out/demo.mp4 --seconds $(DEMO_SECONDS) $(ARGS)

run: setup ## run with your own ARGS, for instance ARGS="--source v4l2:///dev/video0"
	$(run) run $(ARGS)

bench: setup ## measure every stage on a 1280x720 clip
	@mkdir -p build
	@[ -f build/bench.mp4 ] || .venv/bin/python -m edge_app.scene build/bench.mp4
	$(run) bench --source build/bench.mp4 $(ARGS)

check: setup ## look whether everything here fits together, and say what to do where it does not
	$(run) check $(ARGS)

test: ## all tests, on this Python and on 3.6, in lanes side by side; LANES=1 WORKERS=0: one after the other
	@sh deploy/system-packages.sh test
	@sh deploy/venv.sh "$(PYTHON)" .venv $(app) $(needs)/test.txt
	.venv/bin/vermin -t=3.6- --eval-annotations --no-tips --violations edge_app
	@LANES="$(LANES)" $(PYTHON) tests/lanes.py test-fleet test-boxes test36 test-app test-nvidia $(if $(EDGE_APP_CI),test-training)
ifndef EDGE_APP_CI
	@echo "The tests of training/ need PyTorch, which is large: make test-training."
endif

# The lanes of make test; each runs alone too, once make test has prepared .venv.
test-app: ## the tests of the program
	.venv/bin/python -m pytest $(workers) $(ARGS)

test-nvidia: ## the tests of the GPU's part, without a GPU
	.venv/bin/python -m pytest $(workers) tests/nvidia $(ARGS)

test-boxes: ## the tests of service and deployment, in machines with systemd
	$(boxes) tests/systemd tests/deploy --ignore=tests/deploy/test_fleet_of_boxes.py $(ARGS)

test-fleet: ## the tests of deploying to several machines with systemd
	$(boxes) tests/deploy/test_fleet_of_boxes.py $(ARGS)

test36: ## the tests of program and GPU part on Python 3.6, the original Nano's
ifeq ($(PYTHON36),)
	@echo "*******************************************************************************"
	@echo "* No Python 3.6 here: the code of the original Nano was NOT tested on its     *"
	@echo "* language. Put python3.6 on the PATH, or ~/.pyenv/versions/3.6.15.           *"
	@echo "*******************************************************************************"
	@[ -z "$$EDGE_APP_CI" ]
else
	@sh deploy/venv.sh "$(PYTHON36)" .venv36 $(needs)/app-py36.txt $(needs)/gstreamer-py36.txt $(needs)/test-py36.txt
	.venv36/bin/python -m pytest $(workers) $(ARGS)
	.venv36/bin/python -m pytest $(workers) tests/nvidia $(ARGS)
endif

test-training: ## the tests of training/ (installs PyTorch into .venv-train)
	@sh deploy/venv.sh "$(PYTHON)" .venv-train $(needs)/training.txt
	.venv-train/bin/python -m pytest -q tests/training $(if $(EDGE_APP_CI),-m "not slow") $(ARGS)

train: ## train MODEL on DATA/wider (WIDER FACE's layout); goes on where it was stopped
	@sh deploy/venv.sh "$(PYTHON)" .venv-train $(needs)/training.txt
	.venv-train/bin/python -m training.train $(MODEL) --data $(DATA)/wider \
	    $(if $(BACKBONE),--backbone $(BACKBONE)) $(ARGS)

evaluate: ## average precision and calibration of IN/MODEL.onnx on DATA; IN=engines
	@sh deploy/venv.sh "$(PYTHON)" .venv-train $(needs)/training.txt
	.venv-train/bin/python -m training.evaluate $(IN)/$(MODEL).onnx --data $(DATA) $(ARGS)

export: ## WEIGHTS (runs/MODEL/last.pt, else ours) to OUT/MODEL.onnx and its card, for inputs of SIZE; ARGS="--factor F --shift S" calibrates
	@sh deploy/venv.sh "$(PYTHON)" .venv-train $(needs)/training.txt
	.venv-train/bin/python -m training.export $(MODEL) --weights $(WEIGHTS) $(if $(SIZE),--size $(SIZE)) --out $(OUT) $(ARGS)

engine: setup ## build the TensorRT engine of MODEL for the GPU here
	$(run) convert engines/$(MODEL).onnx $(ARGS)

gpu-test: ## what needs an NVIDIA GPU; says so and succeeds where there is none
	@sh deploy/venv.sh "$(PYTHON)" .venv $(app) $(needs)/test.txt
	PYTHON=.venv/bin/python sh tests/gpu/run.sh

soak: setup ## an hour of the program left alone, looked at from outside; SOAK_SECONDS=3600
	@sh deploy/venv.sh "$(PYTHON)" .venv $(app) $(needs)/test.txt
	SOAK_SECONDS=$(SOAK_SECONDS) .venv/bin/python -m pytest -s tests/test_soak.py $(ARGS)

release: ## build build/release/*.tar, the same bytes every time; TARGETS="cp36-aarch64 cp310-aarch64 ..."
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(tools) -m deploy.release $(TARGETS)

provision: ## make machines ready for it, once: HOSTS="nano-1 nano-2" or INVENTORY=fleet.yaml
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(fleet) provision $(devices) $(ARGS)

deploy: ## bring a release to HOSTS or INVENTORY; CANARY=1 WAVE=10% MAX_FAIL=0
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(fleet) deploy $(devices) $(careful) $(ARGS)

status: ## what runs on HOSTS or INVENTORY
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(fleet) status $(devices) $(ARGS)

rollback: ## the release before, on HOSTS or INVENTORY; TO=0.1.0-... names another
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(fleet) rollback $(devices) $(if $(TO),--to $(TO)) $(ARGS)

logs: ## the last lines of the service's log on HOSTS or INVENTORY; LINES=50
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	$(fleet) logs $(devices) --lines $(or $(LINES),50) $(ARGS)

image: ## RELEASE into a copy of NVIDIA's SD-card image: BASE=...zip [RELEASE=...tar, the newest] [KEY=...pub] [USER_NAME=nano] [IMG=...]
	$(as_root) $(PYTHON) -B -m deploy.image "$(BASE)" $(if $(RELEASE),--release "$(RELEASE)") $(if $(KEY),--key "$(KEY)") \
	    $(if $(USER_NAME),--user "$(USER_NAME)") --out "$(IMG)" $(if $(ACCEPT_LICENSE),--accept-license) $(ARGS)

flash: ## IMG onto an SD card and compared: DEVICE=/dev/sdX [IMG=...] [YES=1]
	$(as_root) $(PYTHON) -B -m deploy.flash "$(IMG)" "$(DEVICE)" $(if $(YES),--yes) $(ARGS)

test-device: ## all releases, provisioning, a card and its first boot on an emulated Cortex-A57 (network; an hour)
	@sh deploy/system-packages.sh test-device
	@sh deploy/tools.sh "$(PYTHON)" .venv-deploy
	@sh deploy/venv.sh "$(PYTHON)" .venv $(app) $(needs)/test.txt
	PYTHON36="$(PYTHON36)" .venv/bin/python -m pytest -s tests/device $(ARGS)

clean: ## remove what was built here, environments included
	rm -rf .venv .venv36 .venv-deploy build out .pytest_cache

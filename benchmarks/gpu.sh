#!/usr/bin/env bash
# What only a GPU can show: the same fit in four precisions, with throughput and peak memory, in one run of this script.
#
#   bash benchmarks/gpu.sh .venv/bin/mmlab
set -euo pipefail
command="${1:-mmlab}"
folder="runs/gpu-$(date +%Y%m%d-%H%M%S)"
fit() {
  ${command} fit --config experiments/mnl_keypad.yaml --model.backbone resnet18 --data.dataset.train_size 12000 \
    --data.batch_size 256 --trainer.accelerator gpu --trainer.max_epochs 5 --wandb.mode off \
    --trainer.enable_progress_bar false --run_dir "${folder}/$1" "${@:2}"
}
fit full --trainer.precision 32-true
fit bf16 --trainer.precision bf16-mixed
fit fp16 --trainer.precision 16-mixed
fit bf16-compiled --trainer.precision bf16-mixed --compile true
echo
echo "| run | hardware | samples/s | peak MiB | test acc |"
echo "| --- | --- | --- | --- | --- |"
for run in full bf16 fp16 bf16-compiled; do
  python3 -c 'import json, sys
result = json.load(open(sys.argv[1] + "/result.json"))
print("|", sys.argv[1].split("/")[-1], "|", result["hardware"], "|", result["samples_per_s"], "|",
      result["peak_memory_mib"], "|", round(result["test"]["acc"], 4), "|")' "${folder}/${run}"
done

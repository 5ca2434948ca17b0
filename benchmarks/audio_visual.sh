#!/usr/bin/env bash
# The runs behind the README's tables: seven methods, two real data sets, five seeds, one core and about a minute each;
# those of late fusion are tested under Gaussian noise too, with five noise seeds.
# Finished runs are skipped, a stopped one is resumed. The result files go to results/, everything else stays in runs/.
#
#   bash benchmarks/audio_visual.sh .venv/bin/mmlab
set -euo pipefail
command="${1:-mmlab}"
export OMP_NUM_THREADS=1
for seed in 0 1 2 3 4; do
  for data in avdigits gridletters; do
    for method in joint_training late_fusion mnl qmf mnl_qmf pdf mnl_pdf; do
      name="${data}/${method}/seed${seed}"
      run="runs/table/${name}"
      noisy=corruption_gaussian.json
      if [ "${method}" = joint_training ]; then noisy=result.json; fi  # no decision of its own for each modality
      if [ -f "results/${name}/result.json" ] && [ -f "results/${name}/${noisy}" ]; then continue; fi
      if [ -f "${run}/config.yaml" ]; then
        nice -n 19 ${command} fit --resume "${run}"
      else
        nice -n 19 ${command} fit --config "experiments/${method}_${data}.yaml" --seed "${seed}" --run_dir "${run}" \
          --wandb.mode off --trainer.enable_progress_bar false
      fi
      if [ "${noisy}" != result.json ]; then
        nice -n 19 ${command} test --run "${run}" --corruption gaussian --severity 0,5,10 --noise_seeds 5
      fi
      mkdir -p "results/${name}"
      cp "${run}/result.json" "${run}/${noisy}" "results/${name}/"
    done
  done
done

#!/usr/bin/env bash
# The runs behind the tables in docs/results.md, one core and a minute or two each: every method on four real data sets,
# the methods for incomplete modalities on four too, and those for sentiment on one, five seeds. On sound and image, late
# fusion is tested under Gaussian noise too, with five noise seeds. Three sets have a robustness grid and a diagnosis.
# Finished runs are skipped, a stopped one is resumed. The result files go to results/, everything else stays in runs/.
#
#   bash benchmarks/results.sh .venv/bin/mmlab
set -euo pipefail
command="${1:-mmlab}"
export OMP_NUM_THREADS=1

# one <folder of the data set> <name of the row> <seed> <experiment> [flags]
one() {
  name="$1/$2/seed$3"
  run="runs/table/${name}"
  noisy="" grid=""
  case "$1 $2" in
    avdigits\ *fusion | avdigits\ mnl* | avdigits\ qmf | avdigits\ pdf) noisy=corruption_gaussian.json ;;
    gridletters\ *fusion | gridletters\ mnl* | gridletters\ qmf | gridletters\ pdf) noisy=corruption_gaussian.json ;;
  esac
  case "$1 $2" in
    *all_epochs) ;;
    gridwords\ * | ldrawparts\ * | missing/avdigits\ *) grid="robustness.json diagnosis.json" ;;
  esac
  missing=""
  for file in result.json ${noisy} ${grid}; do
    if [ ! -f "results/${name}/${file}" ]; then missing=yes; fi
  done
  if [ -z "${missing}" ]; then return; fi
  if [ -f "${run}/config.yaml" ]; then
    nice -n 19 ${command} fit --resume "${run}"
  else
    nice -n 19 ${command} fit --config "experiments/$4_${1##*/}.yaml" --seed "$3" --run_dir "${run}" --wandb.mode off \
      --trainer.enable_progress_bar false "${@:5}"
  fi
  mkdir -p "results/${name}"
  if [ -n "${noisy}" ]; then
    nice -n 19 ${command} test --run "${run}" --corruption gaussian --severity 0,5,10 --noise_seeds 5
    cp "${run}/${noisy}" "results/${name}/"
  fi
  if [ -n "${grid}" ]; then
    nice -n 19 ${command} robustness --run "${run}" --trainer.enable_progress_bar false
    nice -n 19 ${command} diagnose --run "${run}"
    for file in ${grid}; do cp "${run}/${file}" "results/${name}/"; done
  fi
  cp "${run}/result.json" "results/${name}/"
}

for seed in 0 1 2 3 4; do
  for data in "avdigits audio image" "gridletters audio video" "gridwords rgb flow" "ldrawparts front rear"; do
    read -r name first second <<< "${data}"
    for modality in "${first}" "${second}"; do
      one "${name}" "unimodal_${modality}" "${seed}" unimodal --model.modality "${modality}"
    done
    for method in joint_training mmcosine ogm_ge late_fusion mnl qmf pdf di_mml erl_mr udml; do
      one "${name}" "${method}" "${seed}" "${method}"
    done
  done
  one ldrawparts late_fusion_all_epochs "${seed}" late_fusion --patience 0
  one missing/pothole mmanet_weight05 "${seed}" mmanet --model.mad_weight 0.5
  one missing/pothole_patches mmanet_weight30 "${seed}" mmanet --model.mad_weight 30
  for name in avdigits gridletters; do
    for method in mnl_qmf mnl_pdf; do one "${name}" "${method}" "${seed}" "${method}"; done
  done
done

for seed in 0 1 2 3 4; do
  for data in "pothole_patches rgb depth" "pothole rgb depth" "avdigits audio image" "gridletters audio video"; do
    read -r name first second <<< "${data}"
    folder="missing/${name}"
    for method in modality_dropout mmanet dmrnet; do one "${folder}" "${method}" "${seed}" "${method}"; done
    one "${folder}" distillation_features "${seed}" distillation --model.logit_weight 0
    one "${folder}" distillation_logits "${seed}" distillation --model.feature_weight 0
    one "${folder}" dedicated_both "${seed}" dedicated --model.modalities "[${first},${second}]"
    for modality in "${first}" "${second}"; do
      one "${folder}" "dedicated_${modality}" "${seed}" dedicated --model.modalities "[${modality}]"
      one "${folder}" "omd_${modality}" "${seed}" omd --model.privileged "[${modality}]"
    done
  done
done

for seed in 0 1 2 3 4; do
  for method in self_mi self_mm lf_dnn tfn lmf mult late_fusion joint_training udml mmanet; do
    one mosi_utterances "${method}" "${seed}" "${method}"
  done
  for modality in text audio vision; do
    one mosi_utterances "unimodal_${modality}" "${seed}" unimodal --model.modality "${modality}"
  done
done

"""The inputs and faults that scstore promises to withstand, and the tests that show it.

The numbers are those that the tests' docstrings name. 44, a remote store, comes with remote stores.
"""

from __future__ import annotations

__all__ = ["CASES"]

CASES: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "X log-normalised, counts in a layer",
        ("cells/test_expression.py::test_counts_in_another_layer",),
    ),
    2: (
        "no counts anywhere and nothing declared",
        (
            "cells/test_expression.py::test_no_counts_anywhere",
            "cells/test_expression.py::test_lognorm_declared_but_counts",
        ),
    ),
    3: (
        "integer-valued floats",
        ("cells/test_expression.py::test_counts_in_x",),
    ),
    4: (
        "fractional pseudo-counts",
        (
            "cells/test_expression.py::test_fractional_counts",
            "cells/test_expression.py::test_tiny_fractional_counts",
            "cells/test_expression.py::test_allowed_fractions_in_the_last_rows",
        ),
    ),
    5: (
        "NaN, Inf or negative values, also only in the last rows of the file",
        (
            "cells/test_expression.py::test_bad_values_in_the_last_rows",
            "cells/test_expression.py::test_bad_values_are_found_by_name",
            "cells/test_expression.py::test_negative_integers",
        ),
    ),
    6: (
        "duplicate cell ids, in one file or across input files",
        (
            "cells/test_formats.py::test_duplicate_ids",
            "cells/test_formats.py::test_prefix_that_does_not_tell_apart",
            "workflows/test_panel.py::test_inputs_that_share_cell_ids_are_refused_unless_prefixed",
        ),
    ),
    7: (
        "duplicate gene names",
        (
            "cells/test_expression.py::test_groups_are_summed_before_the_logarithm",
            "cells/test_matching.py::test_duplicate_names",
            "cells/test_matching.py::test_one_symbol_with_two_ids",
            "cells/test_matching.py::test_duplicates_are_summed_as_counts",
            "workflows/test_panel.py::test_genes_of_one_name_are_refused_or_summed",
        ),
    ),
    8: (
        "Ensembl ids with version suffix; ids in another var column; symbols and ids mixed",
        (
            "cells/test_matching.py::test_versions_are_stripped_of_ids_only",
            "cells/test_matching.py::test_ids_in_another_column",
            "cells/test_matching.py::test_mixed_names",
        ),
    ),
    9: (
        "mouse cells against a human table; no gene in common",
        (
            "cells/test_matching.py::test_capitals_count",
            "cells/test_matching.py::test_mouse_against_human",
            "cells/test_matching.py::test_names_in_a_column_of_another_title",
            "cells/test_matching.py::test_a_poor_match",
            "cells/test_species.py::test_guess_organism",
            "workflows/test_extract.py::test_mouse_cells_against_a_human_table_are_refused_before_any_model",
        ),
    ),
    10: (
        "a cell with no counts, or with none in the table",
        (
            "cells/test_expression.py::test_empty_cells_stay",
            "cells/test_expression.py::test_only_empty_cells",
            "cells/test_mtx.py::test_no_values",
            "workflows/test_extract.py::test_an_empty_cell_is_kept_and_marked",
            "workflows/test_predict.py::test_an_empty_cell_is_unassigned",
        ),
    ),
    11: (
        "0 cells, 0 genes, 1 cell, n not a multiple of the shard",
        (
            "cells/test_formats.py::test_one_cell",
            "cells/test_formats.py::test_nothing_there",
            "stores/test_layout.py::test_shards_cover_every_row_once",
            "workflows/test_extract.py::test_one_cell",
        ),
    ),
    12: (
        "CSR, CSC, dense, unsorted indices, backed or in memory, int/float dtypes",
        (
            "cells/test_anndata_files.py::test_duplicates_are_summed",
            "cells/test_by_column.py::test_by_column_equals_by_row",
            "cells/test_expression.py::test_identical_bits",
            "cells/test_formats.py::test_every_layout_reads_alike",
            "cells/test_formats.py::test_view_of_backed",
            "cells/test_mtx.py::test_every_form",
            "workflows/test_extract.py::test_every_form_of_the_same_cells_gives_the_same_store",
        ),
    ),
    13: (
        "the input file changes during the run or before the resume",
        (
            "faults/test_resume.py::test_resuming_with_other_cells_is_refused",
            "faults/test_resume.py::test_an_input_that_changes_while_it_is_read_is_refused",
        ),
    ),
    14: (
        "truncated file, wrong magic bytes, newer encoding version",
        (
            "attacks/test_attacks.py::test_an_attack_is_refused_by_name",
            "cells/test_anndata_files.py::test_newer_encodings",
            "cells/test_anndata_files.py::test_newer_column",
            "cells/test_anndata_files.py::test_unknown_matrix",
            "cells/test_formats.py::test_wrong_magic",
            "cells/test_formats.py::test_truncated",
            "cells/test_formats.py::test_damaged_in_the_middle",
            "cells/test_formats.py::test_other_hdf5",
            "cells/test_guards.py::test_zarr_that_is_damaged",
            "cells/test_mtx.py::test_damage",
            "cells/test_mtx.py::test_truncated_gzip",
            "cells/test_tenx.py::test_damage",
            "faults/test_mutations.py::test_a_mutated_file_is_read_or_refused",
        ),
    ),
    15: (
        "ids with /, .., newlines, unicode, 10 kB",
        (
            "cells/test_formats.py::test_strange_ids",
            "cells/test_wording.py::test_names_are_escaped_and_shortened",
            "properties/test_any_frame.py::test_metadata_survives_the_store_and_the_export",
            "stores/test_column_names.py::test_others_are_refused_by_name",
            "stores/test_ledger.py::test_ids_are_data",
            "workflows/test_extract.py::test_ids_with_anything_in_them_are_data",
        ),
    ),
    16: (
        "ties in expression",
        ("tokens/test_ranking.py::test_it_equals_sorting_each_cell_by_hand",),
    ),
    17: (
        "more genes + instruction than the model's context",
        (
            "workflows/test_extract.py::test_genes_and_instruction_beyond_the_context_are_refused_with_the_largest_number",
        ),
    ),
    18: (
        "NaN/Inf in a hidden state; a finite value that overflows on the cast to float16",
        (
            "stores/test_writer.py::test_rows_that_are_not_finite_are_not_written",
            "stores/test_writer.py::test_a_value_that_overflows_float16_is_not_written",
            "workflows/test_extract.py::test_hidden_states_that_overflow_stop_the_run",
        ),
    ),
    19: (
        "batch of 1 against batch of 8; long beside short cells",
        (
            "backbone/test_readout.py::test_a_cell_alone_in_a_batch_and_in_another_order",
            "tokens/test_batches.py::test_pooling_weights_by_hand",
        ),
    ),
    20: (
        "GPU out of memory",
        (
            "backbone/test_readout.py::test_a_batch_that_does_not_fit_is_run_in_halves_with_the_same_result",
            "backbone/test_readout.py::test_a_cell_that_does_not_fit_alone_is_a_plain_error",
            "workflows/test_extract.py::test_a_batch_too_large_for_the_memory_is_run_in_halves_and_said",
        ),
    ),
    21: (
        "SIGKILL at every operation; SIGTERM; Ctrl-C",
        (
            "faults/test_kills.py::test_killed_at_random_a_store_is_finished_all_the_same",
            "faults/test_operations.py::test_no_broken_operation_breaks_a_promise",
            "faults/test_operations.py::test_a_record_comes_after_everything_it_names",
            "faults/test_operations.py::test_a_new_store_is_flushed_whole_before_it_has_its_name",
            "faults/test_resume.py::test_killed_and_repeated_it_ends_in_the_same_store_byte_for_byte",
            "properties/test_any_history.py::test_any_history_ends_in_the_same_store",
            "test_cli.py::test_stopped_by_hand_it_says_how_to_go_on",
        ),
    ),
    22: (
        "disk full, EIO, short write, failing fsync at every operation",
        (
            "cells/test_by_column.py::test_no_room",
            "faults/test_full_disk.py::test_a_full_disk_is_one_plain_message_and_goes_on_where_there_is_room",
            "faults/test_operations.py::test_no_broken_operation_breaks_a_promise",
            "stores/test_disk_store.py::test_a_full_disk_is_an_error_and_no_hole",
            "test_fsio.py::test_a_full_disk_is_named",
        ),
    ),
    23: (
        "stale partial files",
        (
            "stores/test_verify.py::test_gc_removes_leftovers_and_nothing_that_is_referenced",
            "test_fsio.py::test_stale_partial_folders_are_removed",
        ),
    ),
    24: (
        "read-only or missing output folder",
        (
            "faults/test_full_disk.py::test_a_full_disk_is_one_plain_message_and_goes_on_where_there_is_room",
            "test_cli.py::test_a_read_only_output_folder_is_found_before_the_model_loads",
            "test_fsio.py::test_a_folder_that_cannot_be_written_is_found_at_once",
        ),
    ),
    25: (
        "two writers on one store; lock of a dead process; lock of another host",
        (
            "faults/test_resume.py::test_a_second_writer_is_refused",
            "faults/test_two_extracts.py::test_a_reader_never_sees_a_row_change_or_go",
            "faults/test_two_extracts.py::test_of_two_at_once_one_is_refused",
            "stores/test_locks.py::test_parts_that_share_shards_do_not",
            "test_fsio.py::test_a_second_owner_is_refused",
            "test_fsio.py::test_a_lock_that_is_let_go_meanwhile_is_taken",
            "test_fsio.py::test_the_lock_of_a_dead_process_is_taken_over",
            "test_fsio.py::test_the_lock_of_another_host_is_left_alone",
        ),
    ),
    26: (
        "locks that do not lock (network file systems) and both write",
        (
            "faults/test_two_writers.py::test_the_first_record_wins_and_other_bytes_are_an_error",
            "faults/test_two_writers.py::test_the_same_bytes_are_not_written_again",
            "faults/test_two_extracts.py::test_a_reader_never_sees_a_row_change_or_go",
            "faults/test_two_writers.py::test_a_record_that_appears_while_the_bytes_are_written_is_kept",
        ),
    ),
    27: (
        "process 1 of 4 dies",
        ("workflows/test_processes.py::test_a_killed_process_ends_the_run_and_another_number_of_them_finishes_it",),
    ),
    28: (
        "resume with another model, instruction, layer, gene table, projector, n",
        (
            "faults/test_resume.py::test_resuming_with_other_options_lists_what_differs",
            "faults/test_resume.py::test_resuming_with_another_model_is_refused",
        ),
    ),
    29: (
        "resume with cells reordered, removed or added",
        ("faults/test_resume.py::test_resuming_with_other_cells_is_refused",),
    ),
    30: (
        "shard deleted; inner chunk absent; bit flipped in a shard, its index, zarr.json, a record, the run's record",
        (
            "cells/test_anndata_files.py::test_missing_zarr_chunk",
            "faults/test_flips.py::test_any_flipped_byte_is_found",
            "faults/test_flips.py::test_every_file_that_is_lost_or_cut_is_found",
            "faults/test_resume.py::test_damaged_shards_alone_are_redone",
            "stores/test_ledger.py::test_what_is_wrong_with_a_shard_is_said",
            "stores/test_ledger.py::test_a_broken_record_does_not_count",
            "properties/test_any_json.py::test_any_manifest_is_refused_or_stays_inside",
            "properties/test_any_json.py::test_any_record_of_a_shard_is_refused_or_stays_inside",
            "stores/test_reader.py::test_a_damaged_record_of_the_run_is_an_error",
            "stores/test_reader.py::test_metadata_with_another_byte_is_an_error_and_never_other_labels",
            "stores/test_reader.py::test_damaged_expression_is_an_error_and_never_zeros",
            "stores/test_reader.py::test_damaged_metadata_is_one_plain_error",
            "stores/test_verify.py::test_all_that_is_wrong_is_listed_and_not_the_first",
            "stores/test_verify.py::test_repair_lets_extract_redo_just_the_damaged_shards",
            "stores/test_views.py::test_a_flipped_bit_is_found_on_reading_those_rows",
            "stores/test_views.py::test_a_deleted_shard_is_an_error_and_never_nan",
            "stores/test_views.py::test_a_changed_record_is_an_error",
        ),
    ),
    31: (
        "record without shard; empty record",
        (
            "stores/test_ledger.py::test_what_is_wrong_with_a_shard_is_said",
            "stores/test_ledger.py::test_an_empty_record_is_none",
            "stores/test_views.py::test_a_deleted_shard_is_an_error_and_never_nan",
        ),
    ),
    32: (
        "fit on an unfinished store",
        ("workflows/test_fit.py::test_an_unfinished_store_is_refused_unless_allowed_and_recorded",),
    ),
    33: (
        "reading while extraction runs",
        (
            "faults/test_two_extracts.py::test_a_reader_never_sees_a_row_change_or_go",
            "stores/test_reader.py::test_an_unfinished_store_shows_what_is_committed",
            "stores/test_views.py::test_rows_that_are_not_extracted_are_an_error_and_others_are_not",
        ),
    ),
    34: (
        "format one version newer; every golden store of an older one",
        (
            "stores/test_golden.py::test_golden_files_read_as_they_did",
            "heads/test_artifact.py::test_a_newer_format_is_named",
            "stores/test_reader.py::test_a_newer_format_is_named",
            "stores/test_verify.py::test_a_newer_format_is_no_damage",
        ),
    ),
    35: (
        "head used on another feature space; view missing",
        (
            "heads/test_estimator_contract.py::test_rows_on_disk_that_do_not_fit_are_refused",
            "heads/test_fusion.py::test_views_that_do_not_fit_at_prediction",
            "workflows/test_predict.py::test_a_head_of_another_feature_space_is_refused_field_by_field",
            "workflows/test_predict.py::test_a_missing_view_is_refused",
            "workflows/test_query.py::test_other_feature_spaces_are_refused",
        ),
    ),
    36: (
        "head with one byte changed",
        (
            "faults/test_flips.py::test_any_flipped_byte_is_found",
            "heads/test_artifact.py::test_a_head_with_one_byte_changed_is_refused",
        ),
    ),
    37: (
        "pickle, joblib or .pt renamed to a head or gene table",
        (
            "attacks/test_attacks.py::test_nothing_ran_and_nothing_is_large",
            "cells/test_guards.py::test_pickle_codec",
            "heads/test_artifact.py::test_a_pickle_is_refused_and_never_runs",
        ),
    ),
    38: (
        "safetensors with a huge header, overlaps, holes, wrong shapes, NaN weights",
        (
            "faults/test_mutations.py::test_a_mutated_file_is_read_or_refused",
            "heads/test_artifact.py::test_a_description_beyond_any_size_is_not_read",
            "heads/test_artifact.py::test_signed_weights_that_do_not_fit_are_refused",
            "heads/test_estimator_contract.py::test_arrays_that_do_not_fit_together_are_damage",
            "heads/test_rejection.py::test_damage_is_refused",
            "test_weights.py::test_malformed_weights_are_refused_at_once",
            "test_weights.py::test_a_file_that_claims_terabytes_is_refused_by_its_size",
        ),
    ),
    39: (
        "foreign index file beside a store or head",
        (
            "heads/test_artifact.py::test_a_foreign_index_beside_a_head_is_not_looked_at",
            "heads/test_knn.py::test_the_index_is_made_from_the_vectors",
            "faults/test_flips.py::test_any_flipped_byte_is_found",
            "search/test_index.py::test_a_damaged_file_is_built_again",
            "search/test_index.py::test_a_file_beside_the_store_is_not_looked_at",
            "workflows/test_verify.py::test_other_files_in_a_head_are_not_looked_at",
        ),
    ),
    40: (
        "array metadata that declares absurd chunks; a decompression bomb",
        (
            "attacks/test_attacks.py::test_an_attack_is_refused_by_name",
            "cells/test_guards.py::test_absurd_hdf5_arrays",
            "cells/test_guards.py::test_absurd_dense_matrix",
            "cells/test_guards.py::test_parts_that_do_not_fit",
            "cells/test_guards.py::test_indices_outside",
            "cells/test_guards.py::test_groups_in_a_circle",
            "cells/test_guards.py::test_absurd_zarr_chunks",
            "cells/test_guards.py::test_decompression_bomb",
            "cells/test_mtx.py::test_damage",
            "cells/test_tenx.py::test_damage",
            "faults/test_mutations.py::test_a_mutated_file_is_read_or_refused",
            "hdf5/test_limits.py::test_what_was_never_written_is_refused_beyond_the_floor",
            "stores/test_verify.py::test_metadata_that_is_damaged_is_not_parsed",
        ),
    ),
    41: (
        "model folder with custom code, or only .bin weights",
        (
            "backbone/test_model.py::test_custom_code_is_refused_and_never_runs",
            "backbone/test_model.py::test_pickled_weights_are_refused",
        ),
    ),
    42: (
        "k larger than the reference; one class; a class seen once; a label column with missing values; empty query",
        (
            "heads/test_estimator_contract.py::test_rows_on_disk_that_do_not_fit_are_refused",
            "heads/test_estimator_contract.py::test_a_class_seen_once_can_be_learned",
            "heads/test_expression.py::test_genes_of_the_only_cell_of_a_class_do_not_take_over",
            "heads/test_folds.py::test_no_fold_takes_a_class_away",
            "heads/test_fusion.py::test_classes_seen_once_or_twice",
            "heads/test_fusion.py::test_a_class_for_every_cell",
            "heads/test_fusion.py::test_no_cells_no_answers",
            "heads/test_fusion.py::test_labels_that_cannot_be_learned_from",
            "heads/test_knn.py::test_no_class_is_ever_impossible",
            "heads/test_knn.py::test_no_query_no_neighbours",
            "heads/test_labels.py::test_missing_labels_are_refused",
            "heads/test_labels.py::test_nan_that_numpy_turned_into_text_is_missing",
            "heads/test_labels.py::test_labels_that_cannot_be_learned_from_are_refused",
            "heads/test_mlp.py::test_too_few_cells_to_hold_any_out",
            "workflows/test_fit.py::test_cells_without_a_label_are_left_out",
            "workflows/test_fit.py::test_labels_that_cannot_be_learned_are_refused",
            "workflows/test_query.py::test_k_is_checked",
            "workflows/test_query.py::test_a_query_without_cells_is_an_empty_table",
        ),
    ),
    43: (
        "output file exists; crash while writing it",
        (
            "heads/test_artifact.py::test_an_existing_head_is_kept_unless_told_otherwise",
            "heads/test_artifact.py::test_only_a_head_is_ever_replaced",
            "heads/test_artifact.py::test_a_crash_while_writing_leaves_the_old_head",
            "test_fsio.py::test_a_failed_write_leaves_the_old_file_and_nothing_else",
            "test_fsio.py::test_an_existing_output_is_refused_unless_overwritten",
            "workflows/test_extract.py::test_an_output_that_is_no_store_is_kept",
            "workflows/test_prediction_files.py::test_a_failure_on_the_way_leaves_nothing",
        ),
    ),
    45: (
        "labels or obs columns with HTML or spreadsheet formulas in them",
        (
            "report/test_card.py::test_labels_stay_text",
            "report/test_evaluation.py::test_labels_with_markup_are_plain_text",
            "workflows/test_predict.py::test_formulas_and_markup_stay_text",
        ),
    ),
}
"""Case by number: what happens, and the tests of it."""

"""Images: where they come from, in which order, how they are decoded, cropped and batched.

From a path to samples, each an `ImageSource` (`sources`): `dataset` recognises what lies there, and
opens it once.

    folders        images in folders: `listing` finds them, `layout` says what their folders mean
                   (`folder_names`, `file_types`)
    label_file     a table of images: `tables` reads it, `label_columns` finds its columns,
                   `labels` what they hold, `image_names` the images (`label_studio`)
    shards         tar files: `shard_index` says what is in them, `storage` and `shard_cache` fetch
    hugging_face   data sets of the library `datasets`

`labelled` divides them into training, validation and test, by class or group (`name_patterns`);
what was understood and skipped is in the `account`. Images with masks come from `segmented` in the
same way: `mask_layouts` says where the masks lie (`nnunet`, `shape_files`, `split_lists`),
`mask_pairs` and `several_masks` whose they are, `mask_files`, `mask_labels` and `mask_classes` what
they hold, and `segmented_source` reads them.

From samples to batches: `order` says which comes when, `images` decodes it (`decode`, `colours`,
`bands`, `truncation`), `transforms` and `augment` make its views, and `loader` gives the batches,
with processes that read (`workers`) and fetch shards (`read_ahead`).

Beside this road: `copies` finds the same image again, `pack` writes shards, and `class_names` knows
the classes of published sets.
"""

/** Resampling of images. */
export {};

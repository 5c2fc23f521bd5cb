//go:build !mutants

package docker

// buildTags are the build tags of the node image's binaries: those of this one.
const buildTags = ""

// imagesCommand builds the node image.
const imagesCommand = "make images"

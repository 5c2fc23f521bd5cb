//go:build mutants

package docker

// buildTags are the build tags of the node image's binaries: those of this one,
// because a node must have the mutant that it is given.
const buildTags = "mutants"

// imagesCommand builds the node image.
const imagesCommand = "faultline-mutants images"

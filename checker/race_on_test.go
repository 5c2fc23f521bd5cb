//go:build race

package checker

// slowdown divides the number of differential cases: single-threaded search
// gains nothing from the race detector, and is ten times slower under it.
const slowdown = 50

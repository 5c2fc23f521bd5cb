//go:build race

package main

// raceEnabled says that the race detector slows everything down about tenfold.
const raceEnabled = true

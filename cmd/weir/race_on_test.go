//go:build race

package main_test

// raceDetector is also for the programs that the tests build.
const raceDetector = true

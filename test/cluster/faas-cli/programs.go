//go:build programs

// Package faascli names the program that this module exists to build.
package faascli

import _ "github.com/openfaas/faas-cli"

//go:build programs

// Package helm names the program that this module exists to build.
package helm

import _ "helm.sh/helm/v3/cmd/helm"

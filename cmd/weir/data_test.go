package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDataHasOneOwner(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "a", "b")
	release, err := claimData(folder)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claimData(folder); err == nil || !strings.Contains(err.Error(), "another weir uses it") {
		t.Errorf("the second: %v", err)
	}
	release()
	release, err = claimData(folder)
	if err != nil {
		t.Fatalf("after the first: %v", err)
	}
	release()
}

func TestDataThatCannotBe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := claimData(filepath.Join(file, "below")); err == nil || !strings.Contains(err.Error(), "WEIR_DATA_DIR=") {
		t.Errorf("below a file: %v", err)
	}
	release, err := claimData("")
	if err != nil {
		t.Fatal(err)
	}
	release()
}

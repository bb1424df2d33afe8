package image

import (
	"errors"
	"strings"
	"testing"
)

// A full disk says nothing about the archive, and trying again may do.
func TestFullDiskIsNoBrokenArchive(t *testing.T) {
	err := brokenArchive(t.Context(), &bounded{}, errors.New("failed to copy: write /x/ingest/1/data: no space left on device: unknown"))
	if !strings.Contains(err.Error(), "disk is full") || strings.Contains(err.Error(), "archive") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a full disk: %v", err)
	}
	if err := brokenArchive(t.Context(), &bounded{}, errors.New("no manifest")); !strings.Contains(err.Error(), "not an image archive") {
		t.Errorf("a broken archive: %v", err)
	}
}

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// parse reads one JSON value so that what is checked is what every plugin will
// read: keys are in lower case, as Go's decoder, which nearly all plugins use,
// does not tell case apart; a key given twice is refused, since of two some read
// the first and some the last.
func parse(data []byte) (any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	v, err := value(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its end")
	}
	return v, nil
}

func value(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("it is not JSON: %w", err)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if depth == maxDepth {
		return nil, fmt.Errorf("it is nested more than %d deep", maxDepth)
	}
	if delim == '[' {
		var list []any
		for dec.More() {
			v, err := value(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, end(dec)
	}
	object := map[string]any{}
	for dec.More() {
		k, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("it is not JSON: %w", err)
		}
		key := k.(string) // the decoder takes nothing else for a key
		if strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, fmt.Errorf("key %+.80q has other characters than printable ASCII", key)
		}
		key = strings.ToLower(key)
		if _, twice := object[key]; twice {
			return nil, fmt.Errorf("key %q is there twice, be it in another case", key)
		}
		if object[key], err = value(dec, depth+1); err != nil {
			return nil, err
		}
	}
	return object, end(dec)
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("it is not JSON: %w", err)
	}
	return nil
}

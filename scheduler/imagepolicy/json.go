package imagepolicy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/redoubt-cluster/redoubt/internal/ident"
)

// object reads one JSON object by its keys, which are told apart exactly and may not
// be there twice; what encoding/json would do with them depends on their order and
// case. Of known keys, if any are given, all others are refused.
func object(data []byte, known ...string) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is no JSON object")
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("it is not JSON")
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("the key %q is there twice", ident.Clip(key))
		}
		if len(known) > 0 && !slices.Contains(known, key) {
			return nil, fmt.Errorf("the key %q is not known", ident.Clip(key))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("it is not JSON")
		}
		out[key] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("it is not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows its end")
	}
	return out, nil
}

// text reads a string; what is not there is "".
func text(raw json.RawMessage) (s string, err error) {
	if len(raw) == 0 {
		return "", nil
	}
	if raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", errors.New("a text is expected")
	}
	return s, nil
}

// blob reads bytes in base64.
func blob(raw json.RawMessage) ([]byte, error) {
	s, err := text(raw)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, errors.New("it is not base64")
	}
	return b, nil
}

// list reads an array of at most limit elements.
func list(raw json.RawMessage, limit int) (out []json.RawMessage, err error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if raw[0] != '[' || json.Unmarshal(raw, &out) != nil {
		return nil, errors.New("a list is expected")
	}
	if len(out) > limit {
		return nil, fmt.Errorf("more than %d elements", limit)
	}
	return out, nil
}

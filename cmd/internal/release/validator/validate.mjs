// Judges bills of materials by CycloneDX's own validator, strictly: node validate.mjs FILE…
import { Validation } from '@cyclonedx/cyclonedx-library'
import { readFileSync } from 'node:fs'

const files = process.argv.slice(2)
if (files.length === 0) throw new Error('name the files')
for (const file of files) {
  const text = readFileSync(file, 'utf8')
  const version = JSON.parse(text).specVersion
  const wrong = await new Validation.JsonStrictValidator(version).validate(text)
  if (wrong !== null) {
    console.error(file, JSON.stringify(wrong, null, 1))
    process.exit(1)
  }
  console.log(`${file}: valid CycloneDX ${version}`)
}
